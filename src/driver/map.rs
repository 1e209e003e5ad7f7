// SPDX-License-Identifier: GPL-2.0

//! `/dev/rpmemN`: the memory of a namespace, mapped by applications without a file system.
//!
//! C counterpart: `dax_mmap_prepare()` and `dev_dax_huge_fault()` in `drivers/dax/device.c`, as far
//! as there is one. `Documentation/mmap.md` is the contract.
//!
//! # Lifetimes and lock order
//!
//! The node outlives the binding of its namespace: files and mappings hold it. What it serves is in
//! [`Node::live`], which unbinding revokes: that waits for faults, write-backs and accesses under
//! way, and those that come later find nothing.
//!
//! Locks, from the outside: mmap lock or VMA lock; that of the write tracker; the SRCU domain of `live`
//! (read); the one that entries of 1 GiB need (`address_space.rs`); locks of page tables and of the address space.
//! `openers` is taken without any of them, and the block layer's `open_mutex` inside of it.
//!
//! # Who maps what
//!
//! A mapping whose stores are tracked and that can be written has entries of one page only. In all
//! others an entry is as large as its address, its place on the device and the poison near it allow.
//! Two faults may disagree on that, when poison comes or huge pages are switched off: the one that
//! comes second finds an entry or a table of the other size, leaves it alone, and the access is tried
//! again.

mod attributes;
mod fault;

use super::{
    lease::DeviceLease,
    pmem::DaxDevice,
    write_tracking::{
        Medium,
        WriteTracker, //
    }, //
};
use crate::{
    abstractions::{
        address_space::AddressSpace,
        block::{
            DiskNumber,
            GenDisk,
            OpenDisk, //
        },
        chrdev::{
            Handle,
            Registration, //
        },
        compat::{
            self,
            THIS_MODULE, //
        },
        errno::eopnotsupp,
        fasync::Fasync,
        file_operations::{
            Event,
            Operations,
            Request, //
        },
        hibernation,
        memory::Hold,
        mmap::{
            PreparedVma,
            VmaDesc, //
        },
        pfn_space::PfnSpace,
        platform,
        prefault,
        range::{
            self,
            RangeUser, //
        },
        srcu::SrcuRevocable,
        sysfs::AttributeGroups,
        trace,
        vma::{
            PMD_ORDER,
            PUD_ORDER, //
        }, //
    },
    logic::{
        fault::PfnRange,
        geometry::{
            Pfn,
            Pgoff,
            Sector,
            PAGE_SHIFT,
            PAGE_SIZE, //
        },
        ioctl::{
            self,
            Prefault, //
        },
        lease::{
            Kind,
            Tag, //
        },
        mmap::{
            self,
            Class,
            Refusal,
            Window, //
        }, //
    }, //
};
use core::ops::{
    Deref,
    Range, //
};
use kernel::{
    device::{
        Core,
        Device, //
    },
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        poll::PollCondVar,
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    ThisModule, //
};

/// The open files of a node, and their claim of the disk (`bd_claim`), so that nobody else has it.
struct Openers {
    files: usize,
    claim: Option<OpenDisk>,
}

/// What a node serves while its namespace is bound. Fields are dropped in this order.
struct Live {
    _failures: Option<Pin<KBox<PfnSpace<Node>>>>,
    dax: Arc<DaxDevice>,
}

impl Deref for Live {
    type Target = DaxDevice;

    fn deref(&self) -> &DaxDevice {
        &self.dax
    }
}

/// The data of a device node. Its alignment leaves mappings bits for a [`Tag`].
#[pin_data]
#[repr(align(256))]
pub(super) struct Node {
    /// The DAX device with its memory, while the namespace is bound.
    #[pin]
    live: SrcuRevocable<Live>,
    /// That of the device, for events.
    name: CString,
    lease: Arc<DeviceLease>,
    space: Arc<AddressSpace>,
    disk_number: DiskNumber,
    limits: mmap::Device,
    pfns: PfnRange,
    /// Of the region: -1 if it has none.
    numa_node: i32,
    page_backed: bool,
    /// log2 of the pages of the folios that are mapped, instead of page frames, if they are.
    folios: Option<u32>,
    #[pin]
    openers: Mutex<Openers>,
    /// What msync has to write back.
    #[pin]
    tracker: WriteTracker,
}

const _: () = assert!(align_of::<Node>() >= Tag::ALIGN);

impl Node {
    /// A node for the DAX device of a disk.
    ///
    /// # Errors
    ///
    /// `ENXIO` if no page of the disk can be mapped; `ENOMEM`. Context: may sleep.
    pub(super) fn new(
        dax: Arc<DaxDevice>,
        number: DiskNumber,
        name: CString,
        synchronous: bool,
    ) -> Result<impl PinInit<Self, Error>> {
        let (pfn, pages) = dax.data().geometry().sector_to_pfn(Sector(0))?;
        let page_backed = dax.data().mapping().has_pages();
        let folios = dax.data().mapping().folio_order();
        let numa_node = dax.data().region().numa_node();
        let lease = dax.data().lease().clone();
        let tracker = WriteTracker::new(pages)?;
        let space = match folios {
            Some(_) => Arc::pin_init(AddressSpace::of_folios(c"[rpmem]"), GFP_KERNEL)?,
            None => Arc::pin_init(AddressSpace::new(c"[rpmem]"), GFP_KERNEL)?,
        };
        dax.data().mapping().set_users(space.clone())?;
        // Pages with a struct page are reported by that.
        let failures = if page_backed {
            None
        } else {
            PfnSpace::register(space.clone(), pfn, pages)?
        };
        let live = Live {
            _failures: failures,
            dax,
        };
        Ok(try_pin_init!(Self {
            live <- SrcuRevocable::new(live),
            name,
            lease,
            space,
            disk_number: number,
            limits: mmap::Device {
                pages,
                synchronous,
            },
            pfns: PfnRange { pfn, pages },
            numa_node,
            page_backed,
            folios,
            openers <- new_mutex!(Openers {
                files: 0,
                claim: None,
            }),
            tracker <- tracker,
        }? Error))
    }

    /// The namespace is being unbound: ends all mappings, in that later accesses are SIGBUS, direct
    /// ones after their grace time. Waits for faults under way. Context: may sleep.
    fn revoke(&self, dev: &Device) {
        let pinned = || {
            let live = self.live.enter();
            live.is_some_and(|live| self.are_pinned(&live, 0..self.pfns.pages))
        };
        self.lease
            .remove(dev, &pinned, &|window| self.unmap_window(window));
        self.write_back_all(dev);
        let live = self.live.revoke();
        self.space.unmap_all();
        // Who opens the node from now on finds it dead before it claims the disk.
        self.openers.lock().claim = None;
        drop(live);
    }

    /// Writes back what users have stored and not made durable: for a clean way down, after which there is
    /// nobody who could. Context: may sleep.
    fn write_back_all(&self, dev: &Device) {
        let result = self.tracker.write_back_dirty(0..self.limits.pages, self);
        // Unbinding has done it.
        if let Some(err) = result.err().filter(|_| self.live.is_alive()) {
            dev_err!(dev, "write-back failed: {}\n", err.to_errno());
        }
    }

    /// Takes the memory from the mappings of a window: those that the lease does not serve any more do not
    /// get it back.
    fn unmap_window(&self, window: Window) {
        self.live.synchronize();
        let window = match self.folios {
            // A folio has one place in the address space: direct mappings fault it in again.
            Some(_) => Window::Ordinary,
            None => window,
        };
        self.space.unmap(window.pgoff(), self.limits.pages);
    }

    /// Has `update` add to the list of bad sectors: no entries stay over those that it has then.
    /// Context: may sleep.
    pub(super) fn change_badblocks(&self, update: impl FnOnce()) {
        update();
        let Some(dax) = self.live.enter().map(|live| live.dax.clone()) else {
            return;
        };
        self.unmap_bad(&dax, |bad| {
            trace::poison_found(&self.name, bad << PAGE_SHIFT, PAGE_SIZE)
        });
        // Faults under way may have planned with the list of before; later ones have the new one.
        self.live.synchronize();
        self.unmap_bad(&dax, |_| ());
    }

    /// Takes the bad pages out of all page tables, and tells `found` of each.
    fn unmap_bad(&self, dax: &DaxDevice, found: impl Fn(u64)) {
        let mut page = 0;
        while let Some(bad) = self.first_bad(dax, page..self.pfns.pages) {
            self.unmap(bad..bad + 1);
            found(bad);
            page = bad + 1;
            platform::cond_resched();
        }
    }

    /// Whether any of `pages` is pinned.
    fn are_pinned(&self, dax: &DaxDevice, pages: Range<u64>) -> bool {
        let first = Pfn(self.pfns.pfn.0 + pages.start);
        dax.data()
            .mapping()
            .folios(first, pages.end - pages.start)
            .is_ok_and(|folios| folios.are_pinned())
    }

    /// The first page in `pages` that has a bad sector.
    fn first_bad(&self, dax: &DaxDevice, pages: Range<u64>) -> Option<u64> {
        let start = Pgoff(pages.start).to_sector()?.0;
        let len = Pgoff(pages.end - pages.start).to_sector()?.0;
        let bad = dax.data().badblocks().first_bad(start, len)?;
        Some(bad >> (PAGE_SHIFT - 9))
    }

    /// Takes pages out of all page tables.
    fn unmap(&self, pages: Range<u64>) {
        let len = pages.end - pages.start;
        self.space.unmap(pages.start, len);
        self.space.unmap(Window::Direct.pgoff() + pages.start, len);
    }

    /// Lets others have the disk if no file is open.
    fn unclaim(&self, openers: &mut Openers) {
        if openers.files == 0 {
            self.lease.set_claimed(false);
            openers.claim = None;
        }
    }

    /// The largest order of an entry, for `huge_page` in sysfs.
    fn largest_order(&self) -> u32 {
        [PUD_ORDER, PMD_ORDER]
            .into_iter()
            .filter(|order| self.may_have(*order))
            .find(|order| {
                let pages = 1u64 << order;
                let head = self.pfns.pfn.0.wrapping_neg() & (pages - 1);
                self.pfns.pages.checked_sub(head) >= Some(pages)
            })
            .unwrap_or(0)
    }

    fn prefault(&self, argument: UserPtr) -> Result {
        let mut raw = [0u8; ioctl::PREFAULT_SIZE];
        UserSlice::new(argument, raw.len())
            .reader()
            .read_slice(&mut raw)?;
        let request = Prefault::parse(&raw, PAGE_SIZE).map_err(|_| EINVAL)?;
        let (end, result) = prefault::prefault(self, request.start, request.end, request.write);
        trace::prefault(&self.name, request.start, end - request.start);
        let done = argument.wrapping_byte_add(ioctl::PREFAULT_DONE);
        UserSlice::new(done, size_of::<u64>())
            .writer()
            .write(&(end - request.start))?;
        result
    }

    fn info(&self, argument: UserPtr) -> Result {
        let info = ioctl::Info {
            size: self.limits.pages << PAGE_SHIFT,
            huge_page: PAGE_SIZE << self.largest_order(),
            synchronous: self.limits.synchronous,
            page_backed: self.page_backed,
            pinnable: self.folios.is_some(),
        };
        copy_struct_to_user(argument, &info.to_bytes())
    }

    fn lease(&self, argument: UserPtr) -> Result {
        let info = self.lease.info();
        let lease = ioctl::Lease {
            status: info.status,
            breaks: info.breaks,
            holders: info.holders,
            left: info.left,
        };
        copy_struct_to_user(argument, &lease.to_bytes())
    }
}

/// Copies a structure to a caller who has said in its first word that there is room.
fn copy_struct_to_user(argument: UserPtr, raw: &[u8]) -> Result {
    let argsz: u32 = UserSlice::new(argument, size_of::<u32>()).reader().read()?;
    if (argsz as usize) < raw.len() {
        return Err(EINVAL);
    }
    UserSlice::new(argument, raw.len())
        .writer()
        .write_slice(raw)
}

/// Says why a request was refused, if not too often, and gives the errno.
fn refuse(dev: &Device, refusal: Refusal) -> Error {
    if platform::may_log() {
        dev_notice!(dev, "mmap refused: {}\n", refusal.reason());
    }
    match refusal {
        Refusal::NotSynchronous => eopnotsupp(),
        _ => EINVAL,
    }
}

impl Operations for Node {
    const OWNER: &'static ThisModule = THIS_MODULE;

    const GROUPS: &'static AttributeGroups<Self> = &attributes::GROUPS;

    fn size(&self) -> u64 {
        self.limits.pages << PAGE_SHIFT
    }

    fn open(&self, dev: &Device, writable: bool) -> Result {
        let mut openers = self.openers.lock();
        if !self.live.is_alive() {
            return Err(ENXIO);
        }
        if openers.claim.is_none() {
            let claim =
                OpenDisk::exclusive(self.disk_number, self, || self.lease.set_claimed(true))
                    .inspect_err(|err| {
                        if *err == EBUSY && platform::may_log() {
                            dev_notice!(dev, "open refused: the disk is mounted or in use\n");
                        }
                    })?;
            openers.claim = Some(claim);
        }
        let read_only = openers.claim.as_ref().is_some_and(OpenDisk::is_read_only);
        if writable && read_only {
            self.unclaim(&mut openers);
            return Err(EROFS);
        }
        openers.files += 1;
        Ok(())
    }

    fn release(&self, dev: &Device) {
        let is_last = {
            let mut openers = self.openers.lock();
            openers.files -= 1;
            openers.files == 0
        };
        if is_last {
            // Until this is done the disk is ours; who opens the node meanwhile has it.
            self.write_back_all(dev);
            self.unclaim(&mut self.openers.lock());
        }
    }

    fn event(&self) -> Event {
        self.lease.event()
    }

    fn event_changed(&self) -> &PollCondVar {
        self.lease.changed()
    }

    fn fasync(&self) -> &Fasync {
        self.lease.fasync()
    }

    fn check_mmap(&self, dev: &Device, request: Request) -> Result<u64> {
        if !self.live.is_alive() {
            return Err(ENXIO);
        }
        let strict = compat::parameter(&crate::module_parameters::strict_validate) != 0;
        mmap::check_flags(request.flags, strict)
            .and_then(|()| mmap::locate(&self.limits, request.pgoff, request.pages))
            .map(|extent| (self.pfns.pfn.0 + extent.first) << PAGE_SHIFT)
            .map_err(|refusal| refuse(dev, refusal))
    }

    fn mmap_prepare(&self, dev: &Device, mut area: VmaDesc<'_, Self>) -> Result<PreparedVma> {
        let live = self.live.enter().ok_or(ENXIO)?;
        if !area.is_shared() {
            return Err(refuse(dev, Refusal::Private));
        }
        if area.is_direct() {
            area.set_pgoff(mmap::direct(area.pgoff()));
        }
        let class = mmap::locate(&self.limits, area.pgoff(), area.pages())
            .and_then(|extent| mmap::class(&self.limits, &extent, area.is_sync()))
            .map_err(|refusal| refuse(dev, refusal))?;
        if self.lease.is_read_only() && !area.is_writable() {
            area.deny_write();
        }
        let kind = Kind {
            direct: class == Class::Direct,
            writable: area.may_write(),
        };
        self.lease.admit(kind).inspect_err(|err| {
            if platform::may_log() {
                let why = match *err {
                    EBUSY => "direct mappings are being taken back",
                    EACCES => "the region is read-only",
                    _ => "the namespace is being unbound",
                };
                dev_notice!(dev, "mmap refused: {}\n", why);
            }
        })?;
        let tag = Tag::pending(kind).to_bits();
        if self.folios.is_some() {
            // Memory failure looks for a folio at its one place; the tag tells the class.
            let extent = mmap::locate(&self.limits, area.pgoff(), area.pages());
            area.set_pgoff(extent.map_err(|_| EINVAL)?.first);
            return Ok(area.map_folios(tag));
        }
        let memory = live.data().mapping();
        Ok(area.map_frames(memory, class == Class::Plain, tag))
    }

    fn fsync(&self, first: u64, last: u64) -> Result {
        self.tracker
            .write_back(mmap::pages_of(&self.limits, first, last), self)
    }

    /// Hibernation brings back what programs had stored, durable or not: so it has to be on the medium before
    /// the power goes, or the host of virtio-pmem may.
    fn prepare_sleep(&self, dev: &Device) -> Result {
        if !hibernation::is_under_way() {
            return Ok(());
        }
        let Some(live) = self.live.enter() else {
            return Ok(());
        };
        let region = live.data().region();
        if region.has_cache() {
            platform::write_back_caches();
        }
        region.flush().map_err(|err| {
            dev_err!(dev, "no hibernation, flush failed: {}\n", err.to_errno());
            // The one error after which a hibernation that is nearly done is taken back.
            EBUSY
        })
    }

    fn ioctl(&self, command: u32, argument: UserPtr) -> Result {
        match command {
            ioctl::PREFAULT => self.prefault(argument),
            ioctl::INFO => self.info(argument),
            ioctl::LEASE => self.lease(argument),
            _ => Err(ENOTTY),
        }
    }
}

impl Medium for Node {
    fn unmap_tracked(&self, pages: Range<u64>) {
        self.space.unmap(pages.start, pages.end - pages.start);
    }

    fn are_pinned(&self, pages: Range<u64>) -> Result<bool> {
        let live = self.live.enter().ok_or(EIO)?;
        Ok(Node::are_pinned(self, &live, pages))
    }

    fn flush_cache(&self, pages: Range<u64>) -> Result {
        /// Pages for which unbinding, and others on this CPU, have to wait.
        const STEP: u64 = 512;
        let mut at = pages.start;
        while at < pages.end {
            let live = self.live.enter().ok_or(EIO)?;
            let next = (at + STEP).min(pages.end);
            let sector = Pgoff(at).to_sector().ok_or(EIO)?;
            let len = (next - at) << PAGE_SHIFT;
            let offset = live.data().geometry().sector_to_offset(sector, len)?;
            live.flush_cache(offset, usize::try_from(len)?)?;
            drop(live);
            platform::cond_resched();
            at = next;
        }
        let len = (pages.end - pages.start) << PAGE_SHIFT;
        trace::write_back(&self.name, pages.start << PAGE_SHIFT, len);
        Ok(())
    }

    fn flush(&self) -> Result {
        let live = self.live.enter().ok_or(EIO)?;
        live.data().region().flush()
    }
}

impl range::Operations for Node {
    fn get(&self, user: RangeUser, offset: u64, len: u64, write: bool) -> Result<(Hold, u64)> {
        if (offset | len) & (PAGE_SIZE - 1) != 0 {
            return Err(EINVAL);
        }
        // Revoking waits for this, and the memory is given up after that: there are no holds that come
        // later.
        let live = self.live.enter().ok_or(ENXIO)?;
        let at = mmap::locate(&self.limits, offset >> PAGE_SHIFT, len >> PAGE_SHIFT)
            .map_err(|_| EINVAL)?;
        let pmem = live.data();
        let sector = Pgoff(at.first).to_sector().ok_or(EINVAL)?;
        let start = pmem.geometry().sector_to_offset(sector, len)?;
        let hold = pmem.mapping().hold(start, usize::try_from(len)?)?;
        let phys = pmem.geometry().offset_to_phys(start)?;
        self.lease.add_user(user, write)?;
        Ok((hold, phys))
    }

    fn put(&self, user: &RangeUser, write: bool) {
        self.lease.remove_user(user, write);
    }
}

/// The node of a bound namespace: dropping it ends what it serves.
pub(super) struct BoundNode(Registration<Node>);

impl BoundNode {
    /// Makes `/dev/rpmemN` for the disk `pmemN`.
    ///
    /// # Errors
    ///
    /// See [`Node::new`] and [`Registration::new`]. Context: may sleep.
    pub(super) fn new(
        dev: &Device<Core<'_>>,
        disk: &GenDisk<DaxDevice>,
        dax: Arc<DaxDevice>,
        synchronous: bool,
    ) -> Result<Self> {
        let name = CString::try_from_fmt(fmt!("r{}", disk.name()?))?;
        let read_only = dax.data().region().is_read_only();
        let node = Node::new(dax, disk.number(), CString::try_from(&*name)?, synchronous)?;
        range::serve::<Node>();
        let this = Self(Registration::new(dev, &name, node)?);
        // Tells of those that are bad from the start.
        this.change_badblocks(|| ());
        this.set_read_only(read_only);
        Ok(this)
    }

    /// See [`Node::change_badblocks`].
    pub(super) fn change_badblocks(&self, update: impl FnOnce()) {
        self.0.data().change_badblocks(update);
    }

    /// The region is read-only from now on, or not any more: if so, mappings end that could be written
    /// to. Context: may sleep.
    pub(super) fn set_read_only(&self, read_only: bool) {
        let node = self.0.data();
        node.lease
            .set_region_read_only(self.0.device(), read_only, &|window| {
                node.unmap_window(window)
            });
        if read_only {
            node.write_back_all(self.0.device());
        }
    }

    /// The machine stops, or starts another kernel: there may be mappings. Context: may sleep.
    pub(super) fn shut_down(&self) {
        self.0.data().write_back_all(self.0.device());
    }
}

/// A disk becomes read-only, or not any more; its node does the same. Context: may sleep.
///
/// # Errors
///
/// See [`DeviceLease::set_disk_read_only`].
pub(super) fn set_disk_read_only(disk: DiskNumber, read_only: bool) -> Result {
    // None while it is being bound, and after it has been unbound.
    let Some(node) = Handle::<Node>::find(|node| node.disk_number == disk) else {
        return Ok(());
    };
    let data = node.data();
    data.lease
        .set_disk_read_only(node.device(), read_only, &|window| {
            data.unmap_window(window)
        })?;
    if read_only {
        data.write_back_all(node.device());
    }
    Ok(())
}

impl Drop for BoundNode {
    fn drop(&mut self) {
        self.0.data().revoke(self.0.device());
    }
}
