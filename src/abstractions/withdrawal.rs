// SPDX-License-Identifier: GPL-2.0

//! Taking pages of DAX files from their users.
//!
//! C counterparts: `dax_break_layout()` and `dax_layout_busy_page()` in [`fs/dax.c`](srctree/fs/dax.c).
//!
//! The driver's own. `memunmap_pages()` leaves page tables and files as they are, with references to struct
//! pages that are gone. So before that, each file that has pages of the memory is looked up from a page,
//! held, and emptied, as far as nobody has pinned a page of it.
//!
//! # Invariants
//!
//! A [`Withdrawal`] never waits for a pin, and never unmounts: it keeps what only such a wait could let go of,
//! until [`Withdrawal::release`].
//!
//! # Lock order
//!
//! `invalidate_lock` of an inode, then `i_pages`.

use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// Who still uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryUser {
    /// A module that has a `Hold`.
    Module,
    /// Somebody who has pinned it, or another one of its file.
    Pin,
    /// A file that cannot be told from the page.
    Other,
}

/// An active reference to a super block: it is not shut down by an unmount.
///
/// # Invariants
///
/// The reference is ours.
pub(super) struct SuperBlock(NonNull<bindings::super_block>);

// SAFETY: The reference is not tied to a thread.
unsafe impl Send for SuperBlock {}

impl SuperBlock {
    /// Lets go of it, unless it is the last one, which unmounts the file system.
    fn let_go(self) -> Result<(), Self> {
        // SAFETY: By the type invariants the reference is ours.
        if unsafe { bindings::rpmem_helper_super_put_unless_last(self.0.as_ptr()) } {
            core::mem::forget(self);
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl Drop for SuperBlock {
    /// Context: may sleep, and unmounts if it is the last one, which waits for pins: no locks.
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::deactivate_super(self.0.as_ptr()) };
    }
}

/// A reference to the inode of a file with DAX pages. It goes before that to its super block.
///
/// # Invariants
///
/// The reference is ours.
struct Inode(NonNull<bindings::inode>);

// SAFETY: The reference is not tied to a thread.
unsafe impl Send for Inode {}

impl Drop for Inode {
    /// Context: may sleep, and for the last reference waits for pins of the file.
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::iput(self.0.as_ptr()) };
    }
}

/// A file with DAX pages, and its file system. Fields are dropped in this order.
pub(super) struct File {
    inode: Inode,
    sb: SuperBlock,
}

impl File {
    /// The one that a folio is of; `None` if nobody uses that.
    ///
    /// # Errors
    ///
    /// [`MemoryUser::Other`] if there is a user that cannot be told.
    pub(super) fn of(folio: *mut bindings::folio) -> Result<Option<Self>, MemoryUser> {
        let guard = kernel::sync::rcu::read_lock();
        // SAFETY: The folio is of pages in the pagemap.
        let mapping = unsafe { bindings::rpmem_helper_folio_mapping(folio) };
        if !mapping.is_null() {
            // SAFETY: A folio is taken off its mapping before the inode that this belongs to is freed,
            // and inodes are freed after an RCU grace period, as are super blocks after them.
            let (inode, sb) = unsafe {
                let inode = (*mapping).host;
                (inode, (*inode).i_sb)
            };
            // The super block first: an inode that is held when the last active reference has gone is
            // in the way of the unmount.
            //
            // SAFETY: As above.
            if !unsafe { bindings::rpmem_helper_super_get(sb) } {
                return Err(MemoryUser::Other);
            }
            // SAFETY: As above; an inode without users is not given.
            let inode = NonNull::new(unsafe { bindings::igrab(inode) });
            drop(guard);
            // INVARIANT: Got just now.
            let sb = SuperBlock(NonNull::new(sb).ok_or(MemoryUser::Other)?);
            // If there is none, it is being evicted, and its pages with it.
            //
            // INVARIANT: As above.
            let inode = Inode(inode.ok_or(MemoryUser::Other)?);
            return Ok(Some(Self { inode, sb }));
        }
        drop(guard);
        // A page that several files share (reflink) does not say which; they let go of it when they
        // are evicted, as idle ones were when the disk went.
        //
        // SAFETY: The folio is of pages in the pagemap.
        let in_use = unsafe {
            bindings::rpmem_helper_folio_share(folio) != 0
                || bindings::rpmem_helper_folio_ref_count(folio) != 0
        };
        if in_use {
            Err(MemoryUser::Other)
        } else {
            Ok(None)
        }
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants the inode is valid.
        unsafe { (*self.inode.0.as_ptr()).i_mapping }
    }

    /// Takes the pages of the file out of page tables; gives one that is pinned.
    pub(super) fn pinned_page(&self) -> Option<*mut bindings::page> {
        let mapping = self.mapping();
        // Faults hold this lock shared from before they translate until their entry is in the page
        // tables (`filemap_invalidate_lock_shared()`), so that none is under way.
        //
        // SAFETY: The lock is part of the inode, which is valid by the type invariants.
        let page = unsafe {
            let lock = &raw mut (*mapping).invalidate_lock;
            bindings::down_write(lock);
            let page = bindings::dax_layout_busy_page_range(mapping, 0, i64::MAX);
            bindings::up_write(lock);
            page
        };
        (!page.is_null()).then_some(page)
    }

    /// Takes the pages out of page tables and out of the file, unless one is pinned: gives that.
    pub(super) fn take_pages(&self) -> Option<*mut bindings::page> {
        if let Some(page) = self.pinned_page() {
            return Some(page);
        }
        let (inode, mapping) = (self.inode.0.as_ptr(), self.mapping());
        // What is pinned by now stays, and is found at the next look.
        //
        // SAFETY: As above. Without a callback this does not wait.
        unsafe {
            let lock = &raw mut (*mapping).invalidate_lock;
            bindings::down_write(lock);
            let _ = bindings::dax_break_layout(inode, 0, i64::MAX, None);
            bindings::up_write(lock);
        }
        None
    }
}

/// How far the pages have been taken from their users.
pub(super) struct Withdrawal {
    /// No page in front of it is used; a pfn.
    pub(super) next: u64,
    /// A pinned page of the file that the one at `next` is of; a pfn.
    pub(super) pinned: Option<u64>,
    /// Held until nobody uses a page.
    files: KVec<File>,
    /// Those that are unmounted then.
    unmounted: KVec<SuperBlock>,
    /// MemoryUser page tables have been cleared.
    pub(super) unmapped: bool,
}

impl Withdrawal {
    /// One that has withdrawn nothing of the pages from `next` on.
    pub(super) fn new(next: u64) -> Self {
        Self {
            next,
            pinned: None,
            files: KVec::new(),
            unmounted: KVec::new(),
            unmapped: false,
        }
    }

    /// Keeps a file that has pinned pages.
    pub(super) fn keep(&mut self, file: File) {
        if self.has(file.mapping()) {
            return self.let_go(file);
        }
        // Without memory, who evicts it waits.
        let _ = self.files.push(file, GFP_KERNEL);
    }

    pub(super) fn has(&self, mapping: *mut bindings::address_space) -> bool {
        self.files.iter().any(|file| file.mapping() == mapping)
    }

    /// Lets go of a file that has no pinned pages or is kept, but does not unmount its file system.
    pub(super) fn let_go(&mut self, file: File) {
        let File { inode, sb } = file;
        drop(inode);
        if let Err(sb) = sb.let_go() {
            let _ = self.unmounted.push(sb, GFP_KERNEL);
        }
    }

    /// Gives up what is held, to be dropped: which may unmount, and waits for pins.
    pub(super) fn release(&mut self) -> (KVec<File>, KVec<SuperBlock>) {
        (
            core::mem::take(&mut self.files),
            core::mem::take(&mut self.unmounted),
        )
    }

    /// Whether all that is held can be let go of without a wait.
    pub(super) fn holds_nothing(&self) -> bool {
        self.files.is_empty() && self.unmounted.is_empty()
    }
}
