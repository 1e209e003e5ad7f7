// SPDX-License-Identifier: GPL-2.0

//! Dropping what others may go on using for as long as they like.
//!
//! C headers: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h),
//! [`include/linux/module.h`](srctree/include/linux/module.h)
//!
//! The driver's own. A task that waits for others must be one that can be killed: they may be its
//! own. `kernel::workqueue` has no queue of a module's own, which the module can empty before it
//! goes.
//!
//! # Who keeps whom alive
//!
//! A value whose drop goes on when nobody waits for it any more holds [`compat::THIS_MODULE`]. The end
//! of that is code of the module, too, which [`Queue`] waits for.

use super::compat;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    new_mutex,
    prelude::*,
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

/// How long no signal ends a wait, in milliseconds: what takes longer waits for others.
const PATIENCE: u32 = 2000;

/// The queue of this module; null while there is none.
static QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(core::ptr::null_mut());

/// The queue on which values are dropped. Dropping it waits for all of them.
///
/// # Invariants
///
/// The pointer is to a queue, which is that in [`QUEUE`].
pub(crate) struct Queue(NonNull<bindings::workqueue_struct>);

// SAFETY: A queue is not tied to a thread.
unsafe impl Send for Queue {}
// SAFETY: A queue locks by itself.
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
        QUEUE.store(queue.as_ptr(), Release);
        // INVARIANT: As said just now.
        Ok(Self(queue))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        QUEUE.store(core::ptr::null_mut(), Relaxed);
        // SAFETY: By the type invariants this is a queue. Nobody adds to it any more: the drivers
        // have been unregistered.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// How far the drop of a value is.
struct State<T> {
    value: Option<T>,
    done: bool,
    /// Nobody waits for it any more, and it holds the module.
    holds_module: bool,
}

/// A value in the queue.
#[pin_data]
struct Item<T: Send + Unpin + 'static> {
    #[pin]
    work: Work<Self>,
    #[pin]
    state: Mutex<State<T>>,
    #[pin]
    done: Opaque<bindings::completion>,
}

// SAFETY: A work item and a completion are not tied to a thread, and `T` is `Send`.
unsafe impl<T: Send + Unpin + 'static> Send for Item<T> {}
// SAFETY: Both lock by themselves; the value is under a lock.
unsafe impl<T: Send + Unpin + 'static> Sync for Item<T> {}

workqueue::impl_has_work! {
    impl{T: Send + Unpin + 'static} HasWork<Self> for Item<T> { self.work }
}

impl<T: Send + Unpin + 'static> WorkItem for Item<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let value = this.state.lock().value.take();
        drop(value);
        let mut state = this.state.lock();
        state.done = true;
        let holds_module = state.holds_module;
        drop(state);
        // SAFETY: Initialised when the item was made.
        unsafe { bindings::complete_all(this.done.get()) };
        drop(this);
        if holds_module {
            // SAFETY: The reference is from `try_module_get()`. The code behind this call stays until
            // the `Queue` has gone.
            unsafe { bindings::module_put(compat::THIS_MODULE.as_ptr()) };
        }
    }
}

/// What it takes to have a value dropped on the queue.
pub(crate) struct Releaser<T: Send + Unpin + 'static>(Arc<Item<T>>);

impl<T: Send + Unpin + 'static> Releaser<T> {
    /// Gets it ready, ahead of time as it may fail.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn new() -> Result<Self> {
        let item = Arc::pin_init(
            pin_init!(Item {
                work <- workqueue::new_work!("rpmem::release"),
                state <- new_mutex!(State {
                    value: None,
                    done: false,
                    holds_module: false,
                }),
                // SAFETY: The pointer is valid for writes.
                done <- Opaque::ffi_init(|done| unsafe { bindings::init_completion(done) }),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self(item))
    }

    /// Drops `value` on the queue, and waits for the end of that. After [`PATIENCE`] a signal ends the
    /// wait, not the drop: `false` if so. Context: may sleep; needs a [`Queue`], else drops it here.
    pub(crate) fn release(self, value: T) -> bool {
        let Self(item) = self;
        let queue = QUEUE.load(Acquire);
        if queue.is_null() {
            return true;
        }
        item.state.lock().value = Some(value);
        // SAFETY: This is a queue, which stays until the driver that drops values has gone.
        let queue = unsafe { workqueue::Queue::from_raw(queue) };
        // It is in no queue yet.
        let _ = queue.enqueue(item.clone());

        // SAFETY: Initialised when the item was made; we are in process context.
        unsafe {
            if bindings::wait_for_completion_timeout(item.done.get(), msecs_to_jiffies(PATIENCE))
                != 0
                || bindings::wait_for_completion_interruptible(item.done.get()) == 0
            {
                return true;
            }
        }
        let mut state = item.state.lock();
        if !state.done {
            // A module that is on its way out cannot be held, and waits in `Queue`.
            //
            // SAFETY: The module is there: this is its code.
            state.holds_module = unsafe { bindings::try_module_get(compat::THIS_MODULE.as_ptr()) };
        }
        state.done
    }
}
