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
//! `Documentation/lifetimes.md` has the order of all locks. Here: the lock of the VMA or the mmap lock is outside of
//! [`Node::live`], and [`Node::openers`] is taken with none of them held.
//!
//! # Who maps what
//!
//! A mapping whose stores are tracked and that can be written has entries that are read-only before a store, and
//! of 2 MiB at most: writable ones of that size where stores are dense (`src/logic/tracking.rs`). In all others an
//! entry is as large as its address, its place on the device and the poison near it allow.
//! Two faults may disagree on that, when poison comes or huge pages are switched off: the one that
//! comes second finds an entry or a table of the other size, leaves it alone, and the access is tried
//! again.

mod attributes;
mod fault;
mod ioctl;
mod poison;
mod ranges;
mod write_back;

use super::{
    lease::DeviceLease,
    pmem::DaxDevice,
    write_tracking::WriteTracker, //
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
        mmap::{
            PreparedVma,
            VmaDesc, //
        },
        pfn_space::PfnSpace,
        platform,
        range,
        srcu::SrcuRevocable,
        sysfs::AttributeGroups, //
    },
    logic::{
        fault::PfnRange,
        geometry::{
            Sector,
            PAGE_SHIFT, //
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
use core::ops::Deref;
use kernel::{
    device::{
        Core,
        Device, //
    },
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::Atomic,
        poll::PollCondVar,
        Arc,
        Mutex, //
    },
    uaccess::UserPtr,
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
    /// How many faults have taken a page table because there were enough.
    moves: Atomic<i32>,
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
        let tracker = WriteTracker::new(pfn, pages)?;
        let space = dax.data().mapping().users().clone();
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
            moves: Atomic::new(0),
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

    /// Lets others have the disk if no file is open.
    fn unclaim(&self, openers: &mut Openers) {
        if openers.files == 0 {
            self.lease.set_claimed(false);
            openers.claim = None;
        }
    }
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

    fn prepare_sleep(&self, dev: &Device) -> Result {
        self.write_back_for_sleep(dev)
    }

    fn ioctl(&self, command: u32, argument: UserPtr) -> Result {
        ioctl::call(self, command, argument)
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
