// SPDX-License-Identifier: GPL-2.0

//! Binding a namespace: probe, remove, shutdown, notify.
//!
//! C counterpart: `nd_pmem_probe()`, `pmem_attach_disk()` and below in `drivers/nvdimm/pmem.c`.
//!
//! # Lifetimes and lock order
//!
//! All callbacks run under the device lock of the device that is bound. `Documentation/lifetimes.md` says who keeps
//! whom alive, and has the order of all locks.

mod medium;

use self::medium::{
    claimable,
    folio_order,
    read_info_block,
    setup_pfn,
    REMEDY, //
};
use super::{
    map::BoundNode,
    pmem::{
        DaxDevice,
        Pmem, //
    },
    sysfs, //
};
use crate::{
    abstractions::{
        block::{
            GenDisk,
            Limits,
            NewDisk, //
        },
        dax,
        deferred_drop::{
            pending_in,
            DeferredDrop, //
        },
        disk_attributes,
        errno::eopnotsupp,
        memory::Memory,
        memremap::Mapping,
        nd::{
            self,
            Event, //
        },
        nd_namespace::{
            Btt,
            ClaimClass,
            Namespace,
            Personality, //
        },
        nd_region::Region,
        pagemap::{
            PageMapRange,
            PageUse, //
        },
        param::Excluded,
        resource::MemRegion, //
    },
    logic::{
        exclude::{
            self,
            Mode, //
        },
        geometry::{
            Geometry,
            PAGE_SIZE, //
        },
        info_block::{
            self,
            Kind, //
        }, //
    }, //
};
use kernel::{
    device::{
        Core,
        Device, //
    },
    prelude::*,
    sync::Arc, //
};

/// The driver, on the libnvdimm bus.
pub(crate) struct Driver;

/// What the driver has of a bound device.
pub(crate) enum Attached {
    /// A namespace that is served from here.
    Pmem(Bound),
    /// One in sector mode.
    Btt(BoundBtt),
}

/// A bound namespace in sector mode: all I/O is libnvdimm's. The disk goes first, the flush comes last.
pub(crate) struct BoundBtt {
    btt: Btt,
    region: FlushOnDrop,
}

struct FlushOnDrop(Region);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush(&self.0);
    }
}

/// A bound namespace. Fields are dropped in this order: mappings of the node end, file systems lose
/// the DAX device, the disk goes when its I/O has ended, then all that needs the region. The memory is
/// left to those who use it.
pub(crate) struct Bound {
    pub(super) node: Option<BoundNode>,
    pub(super) _host: dax::Host<Pmem>,
    pub(super) disk: GenDisk<DaxDevice>,
    pub(super) pmem: Arc<Pmem>,
    pub(super) _memory: DeferredDrop<Arc<Memory>>,
}

impl nd::Driver for Driver {
    type Data = Attached;

    const TYPES: usize = nd::NAMESPACE_IO | nd::NAMESPACE_PMEM | nd::DAX_PMEM;

    fn probe(dev: &Device<Core<'_>>) -> impl PinInit<Self::Data, Error> {
        probe(dev)
    }

    fn remove(_dev: &Device<Core<'_>>, data: Pin<&Self::Data>) {
        match data.get_ref() {
            Attached::Pmem(bound) => flush(bound.pmem.region()),
            // After the disk has gone.
            Attached::Btt(_) => (),
        }
    }

    fn shutdown(_dev: &Device<Core<'_>>, data: Pin<&Self::Data>) {
        match data.get_ref() {
            Attached::Pmem(bound) => {
                if let Some(node) = &bound.node {
                    node.shut_down();
                }
                flush(bound.pmem.region());
            }
            Attached::Btt(bound) => flush(&bound.region.0),
        }
    }

    fn notify(_dev: &Device<Core<'_>>, data: Pin<&Self::Data>, event: Event) {
        match (data.get_ref(), event) {
            (Attached::Pmem(bound), Event::RevalidatePoison) => match &bound.node {
                Some(node) => node.change_badblocks(|| bound.pmem.revalidate_badblocks()),
                None => bound.pmem.revalidate_badblocks(),
            },
            (Attached::Pmem(bound), Event::RevalidateRegion) => {
                bound.disk.check_and_set_ro();
                if let Some(node) = &bound.node {
                    node.set_read_only(bound.pmem.region().is_read_only());
                }
            }
            (Attached::Btt(bound), Event::RevalidatePoison) => {
                bound.btt.revalidate_badblocks(&bound.region.0);
            }
            (Attached::Btt(bound), Event::RevalidateRegion) => {
                bound.btt.check_and_set_ro();
            }
        }
    }
}

fn flush(region: &Region) {
    if let Err(err) = region.flush() {
        dev_err!(region.child(), "flush failed: {}\n", err.to_errno());
    }
}

fn probe(dev: &Device<Core<'_>>) -> Result<Attached> {
    let namespace = Namespace::probe(dev)?;
    let (first, last) = namespace.resource();
    if let Some(name) = pending_in(&(first..last)) {
        dev_warn!(
            dev,
            "pages are in use since {} was unbound: who has pinned them has to let go\n",
            &*name
        );
        return Err(EBUSY);
    }
    let bound = match Personality::of(dev) {
        Personality::Btt => {
            check_excluded(dev, &namespace, Some(Mode::Sector))?;
            return Ok(Attached::Btt(BoundBtt {
                btt: Btt::attach(dev, &namespace)?,
                region: FlushOnDrop(Region::of(dev)?),
            }));
        }
        Personality::Namespace => probe_namespace(dev, &namespace),
        Personality::Pfn => {
            check_excluded(dev, &namespace, Some(Mode::Fsdax))?;
            let (range, block) = setup_pfn(dev, &namespace, Kind::Fsdax)?;
            let pages = Some((range, PageUse::FsDax));
            attach(dev, &namespace, pages, block.data_offset)
        }
        Personality::Dax => {
            check_excluded(dev, &namespace, Some(Mode::Devdax))?;
            let (range, block) = setup_pfn(dev, &namespace, Kind::Devdax)?;
            let order = folio_order(&range, &block);
            let pages = Some((range, PageUse::Generic(order)));
            attach(dev, &namespace, pages, block.data_offset)
        }
    };
    bound.map(Attached::Pmem)
}

/// Refuses a namespace that the module parameter `exclude` leaves to another driver: the bus asks that one
/// next. Without a mode, one that is left to it whatever mode it is in.
///
/// # Errors
///
/// `ENODEV`. Context: may sleep, takes `kernel_param_lock()`.
fn check_excluded(dev: &Device<Core<'_>>, namespace: &Namespace<'_>, mode: Option<Mode>) -> Result {
    let excluded = Excluded::lock();
    let what = exclude::Namespace {
        name: namespace.name().to_bytes(),
        region: namespace.region_name().to_bytes(),
        uuids: [
            namespace.uuid(),
            namespace.personality_uuid().unwrap_or_default(),
        ],
    };
    let is_excluded = match mode {
        Some(mode) => exclude::excludes(excluded.list(), &what, mode),
        None => exclude::excludes_in_any_mode(excluded.list(), &what),
    };
    if is_excluded {
        dev_info!(dev, "left to another driver by the parameter exclude\n");
        return Err(ENODEV);
    }
    Ok(())
}

/// Probes a namespace device: hands it to the personality that its info block asks for, or attaches
/// a disk to the raw namespace.
fn probe_namespace(dev: &Device<Core<'_>>, namespace: &Namespace<'_>) -> Result<Bound> {
    // Before libnvdimm makes a device of another mode of it.
    check_excluded(dev, namespace, None)?;
    let (first, last) = namespace.resource();
    // A smaller one has no room for an info block.
    if last - first >= info_block::RESERVE {
        let raw = namespace.enable(info_block::RESERVE)?;
        if raw.probe_personality(Personality::Btt)? {
            return Err(ENXIO);
        }
        // Of a device that has claimed the namespace before, the block is needed all the same.
        let wanted = !namespace.force_raw() && namespace.claim_class() != ClaimClass::Other;
        let found = if wanted {
            claimable(namespace, read_info_block(dev, namespace, &raw)?)
        } else {
            None
        };
        for personality in [Personality::Pfn, Personality::Dax] {
            if raw.probe_personality(personality)? {
                return Err(ENXIO);
            }
        }
        if let Some(block) = found {
            dev_err!(
                dev,
                "libnvdimm does not take the {:?} info block, no device; {}\n",
                block.kind,
                REMEDY
            );
            return Err(eopnotsupp());
        }
    }

    let with_pages = namespace.should_map_pages();
    let mode = if with_pages { Mode::Fsdax } else { Mode::Raw };
    check_excluded(dev, namespace, Some(mode))?;
    let range = with_pages.then(|| (PageMapRange::new(first, last), PageUse::FsDax));
    attach(dev, namespace, range, 0)
}

/// Attaches a disk to a namespace: with struct pages for `pages`, without if there is none. The
/// data starts `data_offset` bytes into what is mapped.
fn attach(
    dev: &Device<Core<'_>>,
    namespace: &Namespace<'_>,
    pages: Option<(PageMapRange, PageUse)>,
    data_offset: u64,
) -> Result<Bound> {
    let region = Region::of(dev)?;
    let fua = region.has_flush().unwrap_or_else(|_| {
        dev_warn!(dev, "unable to guarantee persistence of writes\n");
        false
    });
    let synchronous = region.is_sync();
    let write_cache = region.has_cache();
    let (pmem, memory) = map_memory(dev, namespace, region, pages, data_offset)?;
    let mapping = pmem.mapping();
    let fs_dax = mapping.has_pages() && mapping.folio_order().is_none();

    let dax = Arc::new(dax::Device::new(pmem.clone())?, GFP_KERNEL)?;
    dax.set_nocache_nomc();
    if synchronous {
        dax.set_synchronous();
    }
    dax.set_write_cache(write_cache);

    let limits = Limits {
        logical_block_size: namespace.sector_size(),
        physical_block_size: PAGE_SIZE as u32,
        write_cache: true,
        fua,
        dax: fs_dax,
        synchronous: true,
    };
    let mut disk = NewDisk::new(dev, &limits, pmem.geometry().sectors(), dax.clone())?;
    namespace.name_disk(&mut disk);
    let host = dax::Host::new(dax.clone(), &disk)?;
    let disk = match disk.add(dev, &sysfs::GROUPS) {
        Ok(disk) => disk,
        Err((err, disk)) => {
            drop(host);
            drop(disk);
            return Err(err);
        }
    };
    disk.check_and_set_ro();

    match disk_attributes::file_of(&disk, c"badblocks") {
        Some(file) => pmem.watch_badblocks(file),
        None => dev_warn!(dev, "'badblocks' notification disabled\n"),
    }
    let node = match make_node(dev, &disk, dax, synchronous) {
        Ok(node) => node,
        Err(err) => {
            drop(host);
            drop(disk);
            return Err(err);
        }
    };
    Ok(Bound {
        node,
        _host: host,
        disk,
        pmem,
        _memory: memory,
    })
}

/// Claims and maps the memory of a namespace, as [`attach`] says; gives with it what leaves it to its users
/// in the end.
fn map_memory(
    dev: &Device<Core<'_>>,
    namespace: &Namespace<'_>,
    region: Region,
    pages: Option<(PageMapRange, PageUse)>,
    data_offset: u64,
) -> Result<(Arc<Pmem>, DeferredDrop<Arc<Memory>>)> {
    let (first, last) = namespace.resource();
    let size = (last - first).checked_add(1).ok_or(EINVAL)?;
    let provider = region.provider(first, size);
    let claim = MemRegion::request(first, size, namespace.name()).inspect_err(|_| {
        dev_warn!(
            dev,
            "could not reserve region {:#x}-{:#x}: see /proc/iomem\n",
            first,
            last
        );
    })?;
    let (map_start, map_len) = pages
        .as_ref()
        .map_or((first, size), |(range, _)| range.range());
    let geometry = Geometry::new(map_start, map_len, data_offset)?;
    let mapping = match pages {
        Some((range, page_use)) => Mapping::pages(range, page_use, geometry.data_phys(), dev),
        None => Mapping::remap(map_start, usize::try_from(map_len)?),
    }
    .inspect_err(|err| {
        dev_err!(
            dev,
            "could not map {:#x}-{:#x}: {}\n",
            first,
            last,
            err.to_errno()
        );
    })?;
    let pmem = Arc::pin_init(Pmem::new(geometry, mapping, claim, region), GFP_KERNEL)?;
    let memory = pmem.mapping().memory().clone();
    let memory = DeferredDrop::new(memory, dev.name(), first..last, provider)?;
    pmem.region()
        .populate_badblocks(pmem.badblocks(), pmem.geometry().data_range());
    Ok((pmem, memory))
}

/// Makes the node of a disk; `None` if there is no page to map.
fn make_node(
    dev: &Device<Core<'_>>,
    disk: &GenDisk<DaxDevice>,
    dax: Arc<DaxDevice>,
    synchronous: bool,
) -> Result<Option<BoundNode>> {
    match BoundNode::new(dev, disk, dax, synchronous) {
        Ok(node) => Ok(Some(node)),
        // The data does not start at a page, or has none: what is left is the disk.
        Err(err) if err == ENXIO || err == ERANGE => {
            dev_warn!(dev, "no page can be mapped: there is no node for it\n");
            Ok(None)
        }
        Err(err) => Err(err),
    }
}
