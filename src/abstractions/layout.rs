// SPDX-License-Identifier: GPL-2.0

//! The structures of `src/c/nd_private.h` and the kernel that runs.
//!
//! C headers: [`include/uapi/linux/btf.h`](srctree/include/uapi/linux/btf.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::{
    bindings,
    logic::btf::{
        self,
        Btf,
        Place, //
    }, //
};
use core::ptr::NonNull;
use kernel::{
    ffi::c_void,
    prelude::*,
    str::CStrExt, //
};

/// That the members are where the module takes them to be.
///
/// The build has compared them with the kernel that it was for; this is about another one under the
/// same release, such as a distribution's next revision: without CONFIG_MODVERSIONS nothing else
/// tells them apart.
pub(crate) struct Proven(());

impl Proven {
    /// Compares them with the kernel's BTF. A kernel without BTF proves nothing, which a message says.
    ///
    /// # Errors
    ///
    /// `ENOEXEC`, with a message, if they are not where they are taken to be; `ENOMEM`. Context: may
    /// sleep.
    pub(crate) fn new() -> Result<Self> {
        let mut files = KVec::new();
        for &module in modules() {
            // SAFETY: It is one of the array's strings.
            let module = unsafe { CStr::from_char_ptr(module) };
            match File::read(module) {
                Ok(file) => files.push(file, GFP_KERNEL)?,
                Err(ENOMEM) => return Err(ENOMEM),
                Err(err) => return Ok(Self::unproven(err)),
            }
        }
        let mut kernels: KVec<Btf<'_>> = KVec::new();
        for file in &files {
            match Btf::parse(file.bytes(), kernels.first()) {
                Ok(btf) => kernels.push(btf, GFP_KERNEL)?,
                Err(_) => return Ok(Self::unproven(EINVAL)),
            }
        }
        let Some((image, modules)) = kernels.split_first() else {
            return Ok(Self::unproven(ENOENT));
        };
        for member in members() {
            let (structure, name) = (text(&member.structure), text(&member.member));
            match Btf::place_in(image, modules, structure.as_bytes(), name.as_bytes()) {
                Ok(Place::At(byte)) if byte == member.offset => {}
                // Of a later kernel, with kinds of types that are not known here.
                Err(btf::Error::Types) => return Ok(Self::unproven(EINVAL)),
                place => return Self::refuse(member, place),
            }
        }
        Ok(Self(()))
    }

    fn refuse(
        member: &bindings::rpmem_member,
        place: core::result::Result<Place, btf::Error>,
    ) -> Result<Self> {
        pr_err!(
            "struct {}: {} is taken to be at byte {}, the kernel's BTF says {:?}\n",
            text(&member.structure),
            text(&member.member),
            member.offset,
            place
        );
        pr_err!("rpmem.ko was built for another kernel of this release: build it for this one\n");
        Err(ENOEXEC)
    }

    fn unproven(err: Error) -> Self {
        pr_notice!(
            "no BTF of this kernel and libnvdimm can be read ({:?}): it is not proven that it is the kernel that rpmem.ko was built for\n",
            err
        );
        Self(())
    }
}

/// The members, for as long as the module lives.
fn members() -> &'static [bindings::rpmem_member] {
    let mut count = 0;
    // SAFETY: The function gives an array that stays as it is, and its length.
    unsafe { core::slice::from_raw_parts(bindings::rpmem_layout_members(&mut count), count) }
}

/// Whose BTF tells of them: strings, for as long as the module lives.
fn modules() -> &'static [*const kernel::ffi::c_char] {
    let mut count = 0;
    // SAFETY: The function gives an array that stays as it is, and its length.
    unsafe { core::slice::from_raw_parts(bindings::rpmem_layout_modules(&mut count), count) }
}

fn text(name: &[kernel::ffi::c_char]) -> &str {
    // SAFETY: Bytes of any value are bytes.
    let bytes = unsafe { core::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
    core::str::from_utf8(bytes).unwrap_or("?")
}

/// A file that was read.
///
/// # Invariants
///
/// `data` is of vmalloc(), and this one's; `len` bytes of it are initialised.
struct File {
    data: NonNull<c_void>,
    len: usize,
}

impl File {
    fn read(module: &CStr) -> Result<Self> {
        let mut data = core::ptr::null_mut();
        // SAFETY: `module` ends with a zero, `data` may be written to.
        let len = unsafe { bindings::rpmem_layout_read(module.as_char_ptr(), &mut data) };
        let len = usize::try_from(len).map_err(|_| Error::from_errno(len as i32))?;
        let data = NonNull::new(data).ok_or(EIO)?;
        // INVARIANT: `rpmem_layout_read()` has allocated and filled it.
        Ok(Self { data, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariants.
        unsafe { core::slice::from_raw_parts(self.data.as_ptr().cast(), self.len) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is this one's, and of vmalloc().
        unsafe { bindings::rpmem_layout_free(self.data.as_ptr()) };
    }
}
