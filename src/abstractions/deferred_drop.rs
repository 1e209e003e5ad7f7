// SPDX-License-Identifier: GPL-2.0

//! Giving up what others may go on using for as long as they like.
//!
//! C headers: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h),
//! [`include/linux/file.h`](srctree/include/linux/file.h),
//! [`include/linux/notifier.h`](srctree/include/linux/notifier.h)
//!
//! The driver's own. A driver is unbound under the lock of its device, which others need: its
//! attributes, and libnvdimm when it has news of new poison. So nothing here waits for users of a
//! value under that lock:
//!
//! - what nobody uses any more is dropped at once;
//! - the rest is dropped by a work item, when its last user has let go;
//! - the task that unbinds waits for that on its way back to user mode, where it has no lock and
//!   where a signal ends the wait: the users may be its own;
//! - where the memory can leave the machine with the region that it is of, the removal of the region
//!   waits, after it has let go of the lock of the region. No signal ends that.
//!
//! # Who keeps whom alive
//!
//! A value in the queue refers to no device: those go before it does. It holds [`compat::THIS_MODULE`];
//! if that is on its way out, and cannot be held, [`Queue`] waits for it. The end of the last work item
//! is code of the module, too, for which [`Queue`] waits in any case.

use super::compat;
use crate::bindings;
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    container_of,
    device::Device,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        Mutex, //
    },
    time::msecs_to_jiffies,
    types::Opaque,
    workqueue::{
        self,
        Work,
        WorkItem, //
    }, //
};

/// How long no signal ends the wait of who unbinds, in milliseconds: what takes longer waits for
/// others.
const PATIENCE: u32 = 2000;

/// What others may go on using after its owner has given it up. It must not need its device, which
/// can be gone by the time that it is dropped.
pub(crate) trait Withdraw: Send + Unpin + 'static {
    /// Takes it from its users, as far as that takes no wait for them; whether none is left. There
    /// are no new ones. Context: may sleep.
    fn withdraw(&self) -> bool;

    /// Waits until [`Withdraw::withdraw`] is true. Context: process, no lock held.
    fn wait(&self);
}

/// Where physical memory comes from, and what takes it along when it goes: a device, as a name alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Provider(NonNull<bindings::device>);

// SAFETY: The pointer is compared, and never dereferenced.
unsafe impl Send for Provider {}
// SAFETY: As above.
unsafe impl Sync for Provider {}

impl Provider {
    /// The device. While values of it are pending its removal waits, so that no other one has its
    /// address.
    pub(super) fn new(dev: &Device) -> Self {
        Self(NonNull::from(dev).cast())
    }
}

/// A value in the queue, as others see it. `kernel::sync::Completion` has no wait that a signal ends.
#[pin_data]
struct Pending {
    /// For messages.
    name: CString,
    /// The physical addresses that it occupies.
    range: Range<u64>,
    provider: Option<Provider>,
    #[pin]
    done: Opaque<bindings::completion>,
}

// SAFETY: A completion is not tied to a thread.
unsafe impl Send for Pending {}
// SAFETY: It locks by itself; all else does not change.
unsafe impl Sync for Pending {}

impl Pending {
    fn new(
        name: CString,
        range: Range<u64>,
        provider: Option<Provider>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            name,
            range,
            provider,
            // SAFETY: The pointer is valid for writes.
            done <- Opaque::ffi_init(|done| unsafe { bindings::init_completion(done) }),
        })
    }

    fn complete(&self) {
        // SAFETY: Initialised when it was made.
        unsafe { bindings::complete_all(self.done.get()) };
    }

    /// Waits for the end. Context: process.
    fn wait(&self) {
        // SAFETY: As above, and the context is the caller's to keep.
        unsafe { bindings::wait_for_completion(self.done.get()) };
    }

    /// The same, but after [`PATIENCE`] a signal ends the wait: `false` if so.
    fn wait_interruptible(&self) -> bool {
        // SAFETY: As above.
        unsafe {
            bindings::wait_for_completion_timeout(self.done.get(), msecs_to_jiffies(PATIENCE)) != 0
                || bindings::wait_for_completion_interruptible(self.done.get()) == 0
        }
    }
}

/// What is pending.
struct List {
    /// Never longer than `room`, which it has memory for.
    values: KVec<Arc<Pending>>,
    room: usize,
}

impl List {
    /// Makes room for one more.
    fn reserve(&mut self) -> Result {
        let additional = self.room + 1 - self.values.len();
        self.values.reserve(additional, GFP_KERNEL)?;
        self.room += 1;
        Ok(())
    }
}

/// What there is one of in the module.
///
/// # Invariants
///
/// `queue` is a work queue. While `watched` is a bus, `removals` is registered there.
#[pin_data]
struct Shared {
    queue: NonNull<bindings::workqueue_struct>,
    #[pin]
    pending: Mutex<List>,
    #[pin]
    removals: Opaque<bindings::notifier_block>,
    #[pin]
    watched: Mutex<Option<NonNull<bindings::bus_type>>>,
}

/// That of this module; null while there is none.
static SHARED: Atomic<*mut Shared> = Atomic::new(core::ptr::null_mut());

/// The queue on which values are dropped. Dropping it waits for all of them.
///
/// # Invariants
///
/// It is that in [`SHARED`].
pub(crate) struct Queue(Pin<KBox<Shared>>);

// SAFETY: A work queue and a notifier are not tied to a thread.
unsafe impl Send for Queue {}
// SAFETY: They lock by themselves.
unsafe impl Sync for Queue {}

impl Queue {
    /// Makes the queue. At most one at a time.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The name is a static string without conversions.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"rpmem".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                0,
            )
        };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;
        let shared = KBox::pin_init(
            pin_init!(Shared {
                queue,
                pending <- new_mutex!(List {
                    values: KVec::new(),
                    room: 0,
                }),
                removals: Opaque::new(bindings::notifier_block {
                    notifier_call: Some(removal_callback),
                    ..pin_init::zeroed()
                }),
                watched <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )
        .inspect_err(|_| {
            // SAFETY: Made just now, and empty.
            unsafe { bindings::destroy_workqueue(queue.as_ptr()) }
        })?;
        SHARED.store(core::ptr::from_ref(&*shared).cast_mut(), Release);
        // INVARIANT: As said just now.
        Ok(Self(shared))
    }

    /// The one of this module.
    fn get() -> Option<&'static Shared> {
        // SAFETY: It stays until the drivers have been unregistered and the queue is empty; who calls
        // this is a driver, or in the queue.
        unsafe { SHARED.load(Acquire).as_ref() }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this is a queue. Nobody adds to it any more: the drivers
        // have been unregistered.
        unsafe { bindings::destroy_workqueue(self.0.queue.as_ptr()) };
        SHARED.store(core::ptr::null_mut(), Relaxed);
        // No removal waits any more, which would do so inside of the list of notifiers.
        if let Some(bus) = self.0.watched.lock().take() {
            // SAFETY: By the type invariants it is registered there.
            unsafe { bindings::bus_unregister_notifier(bus.as_ptr(), self.0.removals.get()) };
        }
    }
}

/// Has the removal of devices on the bus of `dev` wait for what is pending of them. Context: may
/// sleep.
///
/// # Errors
///
/// Those of `bus_register_notifier()`.
pub(super) fn watch_removals(dev: &Device) -> Result {
    let Some(shared) = Queue::get() else {
        return Ok(());
    };
    let mut watched = shared.watched.lock();
    if watched.is_some() {
        return Ok(());
    }
    // SAFETY: The device is valid, and stays on its bus while it is being bound.
    let bus = unsafe { (*super::device_raw(dev)).bus }.cast_mut();
    let bus = NonNull::new(bus).ok_or(EINVAL)?;
    // SAFETY: The bus is valid. The notifier is not registered, and stays until it is taken out by
    // the drop of the queue.
    to_result(unsafe { bindings::bus_register_notifier(bus.as_ptr(), shared.removals.get()) })?;
    // INVARIANT: Registered just now.
    *watched = Some(bus);
    Ok(())
}

/// # Safety
///
/// For the bus that `removals` of a [`Shared`] is registered with.
unsafe extern "C" fn removal_callback(
    notifier: *mut bindings::notifier_block,
    action: c_ulong,
    data: *mut c_void,
) -> c_int {
    const REMOVED: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_REMOVED_DEVICE as c_ulong;
    if action == REMOVED {
        // SAFETY: The notifier is that of a `Shared`, which stays while it is registered.
        let shared = unsafe { &*container_of!(Opaque::cast_from(notifier), Shared, removals) };
        shared.wait_for(data.cast());
    }
    bindings::NOTIFY_DONE as c_int
}

impl Shared {
    /// Waits for all that is pending of a device which is being removed. Its driver has been unbound,
    /// so that nothing is added.
    fn wait_for(&self, dev: *mut bindings::device) {
        loop {
            let pending = self.pending.lock();
            let next = pending.values.iter().find(|value| {
                value
                    .provider
                    .is_some_and(|provider| provider.0.as_ptr() == dev)
            });
            let Some(next) = next.cloned() else {
                return;
            };
            drop(pending);
            pr_notice!(
                "{}: its memory would go: waiting for who has pinned pages of it, or holds it\n",
                &*next.name
            );
            next.wait();
        }
    }
}

/// The name of a value that is pending in a part of `range`, physical addresses.
pub(crate) fn pending_in(range: &Range<u64>) -> Option<CString> {
    let pending = Queue::get()?.pending.lock();
    let mut values = pending.values.iter();
    let value = values.find(|v| v.range.start < range.end && range.start < v.range.end)?;
    CString::try_from(&*value.name).ok()
}

/// A value in the queue.
#[pin_data]
struct Item<T: Withdraw> {
    #[pin]
    work: Work<Self>,
    #[pin]
    value: Mutex<Option<T>>,
    pending: Arc<Pending>,
    /// It holds the module.
    holds_module: Atomic<i32>,
}

workqueue::impl_has_work! {
    impl{T: Withdraw} HasWork<Self> for Item<T> { self.work }
}

impl<T: Withdraw> WorkItem for Item<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let value = this.value.lock().take();
        if let Some(value) = &value {
            value.wait();
        }
        drop(value);
        if let Some(shared) = Queue::get() {
            let mut list = shared.pending.lock();
            list.values
                .retain(|other| !Arc::ptr_eq(other, &this.pending));
            list.room -= 1;
        }
        this.pending.complete();
        let holds_module = this.holds_module.load(Relaxed) != 0;
        drop(this);
        if holds_module {
            // SAFETY: The reference is from `try_module_get()`. The code behind this call stays until
            // the `Queue` has gone.
            unsafe { bindings::module_put(compat::THIS_MODULE.as_ptr()) };
        }
    }
}

/// A value that is given up when this is dropped.
///
/// Others may have it as well ([`Arc`]), but have let go of it by then.
pub(crate) struct DeferredDrop<T: Withdraw>(Option<(T, Arc<Item<T>>)>);

impl<T: Withdraw> DeferredDrop<T> {
    /// Gets ready to give up `value`, ahead of time as that may fail. It is called `name` in messages,
    /// occupies `range` of physical memory, and cannot outlive its `provider`, if it has one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn new(
        value: T,
        name: &CStr,
        range: Range<u64>,
        provider: Option<Provider>,
    ) -> Result<Self> {
        let pending = Pending::new(CString::try_from(name)?, range, provider);
        let item = Arc::pin_init(
            try_pin_init!(Item {
                work <- workqueue::new_work!("rpmem::release"),
                value <- new_mutex!(None),
                pending: Arc::pin_init(pending, GFP_KERNEL)?,
                holds_module: Atomic::new(0),
            }? Error),
            GFP_KERNEL,
        )?;
        if let Some(shared) = Queue::get() {
            shared.pending.lock().reserve()?;
        }
        Ok(Self(Some((value, item))))
    }
}

impl<T: Withdraw> Drop for DeferredDrop<T> {
    /// Context: may sleep; waits for nobody.
    fn drop(&mut self) {
        let Some((value, item)) = self.0.take() else {
            return;
        };
        let Some(shared) = Queue::get() else {
            return;
        };
        if value.withdraw() {
            shared.pending.lock().room -= 1;
            return;
        }
        *item.value.lock() = Some(value);
        // One that is on its way out waits in `Queue`.
        //
        // SAFETY: The module is there: this is its code.
        let held = unsafe { bindings::try_module_get(compat::THIS_MODULE.as_ptr()) };
        item.holds_module.store(held.into(), Relaxed);
        let pending = item.pending.clone();
        let _ = shared
            .pending
            .lock()
            .values
            .push_within_capacity(pending.clone());
        // SAFETY: By the type invariants this is a queue.
        let queue = unsafe { workqueue::Queue::from_raw(shared.queue.as_ptr()) };
        // It is in no queue yet.
        let _ = queue.enqueue(item);
        wait_on_return(pending);
    }
}

/// Has the task wait for `pending` on its way back to user mode, if it is of user mode: what the task
/// has asked for is done when it goes on.
///
/// The last reference to a file is such a thing: fput() leaves it to the task until then.
fn wait_on_return(pending: Arc<Pending>) {
    const FOPS: bindings::file_operations = bindings::file_operations {
        owner: compat::THIS_MODULE.as_ptr(),
        release: Some(return_callback),
        ..pin_init::zeroed()
    };

    // SAFETY: The current task is valid.
    if unsafe { (*bindings::get_current()).flags } & bindings::PF_KTHREAD != 0 {
        return;
    }
    let pending = Arc::into_raw(pending);
    // SAFETY: The name is a string, the operations are static and hold the module; the private data is
    // for them.
    let file = from_err_ptr(unsafe {
        bindings::anon_inode_getfile(
            c"[rpmem-unbind]".as_char_ptr(),
            &FOPS,
            pending.cast_mut().cast(),
            bindings::O_RDONLY as i32,
        )
    });
    match file {
        // SAFETY: The reference is ours.
        Ok(file) => unsafe { bindings::fput(file) },
        // Without memory nobody waits, or the module is on its way out, which waits itself.
        //
        // SAFETY: From above.
        Err(_) => drop(unsafe { Arc::from_raw(pending) }),
    }
}

/// # Safety
///
/// For the files of [`wait_on_return`].
unsafe extern "C" fn return_callback(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The private data is a reference to what is pending, and ours from now on.
    let pending = unsafe { Arc::from_raw((*file).private_data.cast::<Pending>()) };
    if !pending.wait_interruptible() {
        pr_notice!(
            "{}: a signal ends the wait for users of its pages: it can be bound again when they let go\n",
            &*pending.name
        );
    }
    0
}
