// SPDX-License-Identifier: GPL-2.0

//! Memory of a device that other modules hold: what is behind `include/linux/rpmem.h`.
//!
//! # Who keeps whom alive
//!
//! A [`Range`] is of two: the module that holds it, until it gives it back, and the driver, which
//! keeps a [`RangeUser`] to tell. The last of them frees it. What is the module's own, `->broken`, is
//! called only while the range has not been given back, and `rpmem_range_put()` waits for that call.
//!
//! The memory is kept by a [`Hold`], until the range is given back and no longer: the device may have
//! gone by then, and the [`RangeUser`] may stay. The file keeps the driver.

use super::{
    file_operations::{
        self,
        Files, //
    },
    memory::Hold, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    ffi::c_void,
    new_condvar,
    new_mutex,
    prelude::*,
    str::{
        CStr,
        CString, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        CondVar,
        Mutex, //
    },
    types::Opaque, //
};

/// What a driver whose memory can be held implements.
pub(crate) trait Operations: file_operations::Operations {
    /// Lets a user hold `len` bytes from `offset` on: says where they are, in the kernel and
    /// physically, and remembers `user`, to be told, until it is given back. Context: may sleep.
    ///
    /// # Errors
    ///
    /// See `rpmem_range_get()`.
    fn get(&self, user: RangeUser, offset: u64, len: u64, write: bool) -> Result<(Hold, u64)>;

    /// The user does not use it any more, and is not told any more. Context: may sleep.
    fn put(&self, user: &RangeUser, write: bool);
}

type Broken = unsafe extern "C" fn(*mut bindings::rpmem_range);

/// A range that is held, or was.
///
/// # Invariants
///
/// While `calls.held`, `file` is an open file of a device that `put` is for, with a reference of
/// ours, and `broken` may be called; also as long as a call is under way.
#[repr(C)]
#[pin_data]
struct Range {
    /// What the user sees: at the start, so that a pointer to it is one to all of it.
    public: Opaque<bindings::rpmem_range>,
    broken: Option<Broken>,
    name: CString,
    write: bool,
    file: NonNull<bindings::file>,
    put: unsafe fn(NonNull<bindings::file>, &RangeUser, bool),
    #[pin]
    calls: Mutex<Calls>,
    /// A call has ended, or can begin.
    #[pin]
    changed: CondVar,
}

struct Calls {
    /// The range has not been given back.
    held: bool,
    /// What keeps its memory. There are no calls before there is one.
    hold: Option<Hold>,
    /// The task that calls `broken`.
    teller: Option<i32>,
}

// SAFETY: Nothing of a range is tied to a thread; `public` is for its user, and written by us before
// the user has it.
unsafe impl Send for Range {}
// SAFETY: As above.
unsafe impl Sync for Range {}

/// A user of a range. It may have given that back: then it only has a name.
#[derive(Clone)]
pub(crate) struct RangeUser(Arc<Range>);

impl PartialEq for RangeUser {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl RangeUser {
    /// Tells the user that the memory is about to be taken away. It gives the range back in the
    /// call, or later; there is no call if it has done so. Context: may sleep; no lock that
    /// [`Operations::get`] and [`Operations::put`] take.
    pub(crate) fn broken(&self) {
        let Some(broken) = self.0.broken else {
            return;
        };
        {
            let mut calls = self.0.calls.lock();
            // `get` is about to be done with it.
            while calls.held && calls.hold.is_none() {
                self.0.changed.wait(&mut calls);
            }
            if !calls.held || calls.teller.is_some() {
                return;
            }
            calls.teller = Some(kernel::current!().pid());
        }
        // SAFETY: By the type invariants: the range was held a moment ago, and `end` waits for us.
        unsafe { broken(self.0.public.get()) };
        self.0.calls.lock().teller = None;
        self.0.changed.notify_all();
    }

    /// The name of the user's module.
    pub(crate) fn name(&self) -> &CStr {
        &self.0.name
    }

    /// There are no calls from now on. Waits for one that is under way, unless it is by this task.
    /// Gives what has kept the memory.
    fn end(&self) -> Option<Hold> {
        let me = kernel::current!().pid();
        let mut calls = self.0.calls.lock();
        calls.held = false;
        while calls.teller.is_some_and(|teller| teller != me) {
            self.0.changed.wait(&mut calls);
        }
        calls.hold.take()
    }
}

/// `put` of a range of a device of type `T`.
///
/// # Safety
///
/// `file` is open.
unsafe fn put<T: Operations>(file: NonNull<bindings::file>, user: &RangeUser, write: bool) {
    // SAFETY: Guaranteed by the caller.
    if let Some(data) = unsafe { Files::<T>::data_of(file.as_ref()) } {
        data.put(user, write);
    }
}

/// Gets a range of a device for another module: its file, offset and length in bytes, whether for writing,
/// and what belongs to that module.
type Get = unsafe fn(
    NonNull<bindings::file>,
    u64,
    u64,
    bool,
    NonNull<bindings::rpmem_range_ops>,
    *mut c_void,
) -> Result<NonNull<bindings::rpmem_range>>;

/// How to get a range of a device.
struct Table {
    get: Get,
}

impl Table {
    const fn of<T: Operations>() -> Self {
        Self { get: get::<T> }
    }
}

/// That of the devices of this module, which are of one kind; null before the first.
static TABLE: Atomic<*const Table> = Atomic::new(core::ptr::null());

/// Lets other modules hold memory of devices with `T`, before there is one. Context: any.
pub(crate) fn serve<T: Operations>() {
    struct Served<T>(PhantomData<T>);
    impl<T: Operations> Served<T> {
        const TABLE: &'static Table = &Table::of::<T>();
    }
    TABLE.store(Served::<T>::TABLE, Relaxed);
}

/// Gets a range of a device of type `T`, for `file`.
///
/// # Safety
///
/// `file` is open. `ops` stays valid until the range is given back.
unsafe fn get<T: Operations>(
    file: NonNull<bindings::file>,
    offset: u64,
    len: u64,
    write: bool,
    ops: NonNull<bindings::rpmem_range_ops>,
    private: *mut c_void,
) -> Result<NonNull<bindings::rpmem_range>> {
    // SAFETY: Guaranteed by the caller.
    let (data, mode) = unsafe { (Files::<T>::data_of(file.as_ref()), file.as_ref().f_mode) };
    let data = data.ok_or(EINVAL)?;
    if write && mode & bindings::FMODE_WRITE == 0 {
        return Err(EBADF);
    }
    // SAFETY: Guaranteed by the caller; a module is valid while its operations are, and its name is
    // a string.
    let (broken, name) = unsafe {
        let ops = ops.as_ref();
        (
            ops.broken,
            CStr::from_char_ptr(bindings::rpmem_helper_module_name(ops.owner)),
        )
    };
    let name = CString::try_from(name)?;
    let range = new(file, len, write, private, broken, name, put::<T>)?;
    // INVARIANT: The reference is that of the range.
    //
    // SAFETY: The file is open.
    unsafe { bindings::rpmem_helper_get_file(file.as_ptr()) };
    // The user's, who may give it back as soon as the driver has it.
    let of_user = Arc::into_raw(range.clone());
    match data.get(RangeUser(range.clone()), offset, len, write) {
        Ok((hold, phys)) => {
            let public = range.public.get();
            // SAFETY: The range is valid, and its user does not have it yet.
            unsafe {
                (*public).addr = hold.address().as_ptr();
                (*public).phys = phys;
            }
            range.keep(hold);
            NonNull::new(of_user.cast_mut().cast()).ok_or(ENOMEM)
        }
        Err(err) => {
            // SAFETY: From above, both.
            unsafe {
                bindings::fput(file.as_ptr());
                drop(Arc::from_raw(of_user));
            }
            Err(err)
        }
    }
}

impl Range {
    /// The range is there: from now on its user can be told.
    fn keep(&self, hold: Hold) {
        self.calls.lock().hold = Some(hold);
        self.changed.notify_all();
    }
}

fn new(
    file: NonNull<bindings::file>,
    len: u64,
    write: bool,
    private: *mut c_void,
    broken: Option<Broken>,
    name: CString,
    put: unsafe fn(NonNull<bindings::file>, &RangeUser, bool),
) -> Result<Arc<Range>> {
    Arc::pin_init(
        pin_init!(Range {
            public: Opaque::new(bindings::rpmem_range {
                addr: core::ptr::null_mut(),
                phys: 0,
                len,
                writable: write,
                private,
            }),
            broken,
            name,
            write,
            file,
            put,
            calls <- new_mutex!(Calls {
                held: true,
                hold: None,
                teller: None,
            }),
            changed <- new_condvar!(),
        }),
        GFP_KERNEL,
    )
}

/// # Safety
///
/// For `rpmem_range_get()` only.
#[no_mangle]
pub(crate) unsafe extern "C" fn rpmem_rust_range_get(
    file: *mut bindings::file,
    offset: u64,
    len: u64,
    write: bool,
    ops: *const bindings::rpmem_range_ops,
    private: *mut c_void,
) -> *mut bindings::rpmem_range {
    let range = (|| {
        let file = NonNull::new(file).ok_or(EINVAL)?;
        let ops = NonNull::new(ops.cast_mut()).ok_or(EINVAL)?;
        // SAFETY: Null, or a constant (`serve()`).
        let table = unsafe { TABLE.load(Relaxed).as_ref() }.ok_or(EINVAL)?;
        // SAFETY: `rpmem_range_get()` passes an open file; the caller keeps the operations.
        unsafe { (table.get)(file, offset, len, write, ops, private) }
    })();
    match range {
        Ok(range) => range.as_ptr(),
        Err(err) => err.to_ptr(),
    }
}

/// # Safety
///
/// For `rpmem_range_put()` only.
#[no_mangle]
pub(crate) unsafe extern "C" fn rpmem_rust_range_put(range: *mut bindings::rpmem_range) {
    let Ok(Some(public)) = from_err_ptr(range).map(NonNull::new) else {
        return;
    };
    // SAFETY: `rpmem_range_put()` passes a range of `get`, and it is its user's reference.
    let user = RangeUser(unsafe { Arc::from_raw(public.cast::<Range>().as_ptr()) });
    let hold = user.end();
    let range = &user.0;
    // SAFETY: By the type invariants; this was the end of it.
    unsafe { (range.put)(range.file, &user, range.write) };
    // Who waits for the memory finds that the range was given back.
    drop(hold);
    // SAFETY: As above.
    unsafe { bindings::fput(range.file.as_ptr()) };
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rpmem_range)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::Ram;

    static CALLS: Atomic<u32> = Atomic::new(0);

    /// # Safety
    ///
    /// No conditions.
    unsafe extern "C" fn broken(_: *mut bindings::rpmem_range) {
        CALLS.fetch_add(1, Relaxed);
    }

    fn put(_: NonNull<bindings::file>, _: &RangeUser, _: bool) {}

    #[test]
    fn who_has_given_back_is_not_told() -> Result {
        let name = CString::try_from(c"a module")?;
        let file = NonNull::dangling();
        let private = core::ptr::null_mut();
        let ram = Ram::new(0)?;
        let mapping = ram.map()?;
        let user = RangeUser(new(file, 1, false, private, Some(broken), name, put)?);
        user.0.keep(mapping.hold(0, 1)?);
        CALLS.store(0, Relaxed);
        user.broken();
        assert_eq!(CALLS.load(Relaxed), 1);
        let of_driver = user.clone();
        // The memory is not kept by who is told.
        assert!(user.end().is_some());
        drop(user);
        of_driver.broken();
        assert_eq!(CALLS.load(Relaxed), 1);
        assert_eq!(of_driver.name().to_bytes(), b"a module");
        Ok(())
    }
}
