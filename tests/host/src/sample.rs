// SPDX-License-Identifier: GPL-2.0

//! Info blocks to start from, field by field.

use crate::{
    check::seal,
    libnvdimm::{Libnvdimm, StructPage},
    logic::info_block::{Namespace, SIZE},
};

/// The uuid of [`NAMESPACE`].
pub const UUID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// A namespace that [`Fields::default`] fits.
pub const NAMESPACE: Namespace = Namespace {
    start: 4 << 30,
    size: 256 << 20,
    uuid: UUID,
};

/// [`NAMESPACE`] on a production kernel.
pub const LIBNVDIMM: Libnvdimm = Libnvdimm {
    namespace: NAMESPACE,
    compat_align: 2 << 20,
    struct_page: StructPage::Bytes64,
    devdax: false,
};

/// The fields of an info block, in clear. See `struct nd_pfn_sb`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Fields {
    pub signature: [u8; 16],
    pub parent: [u8; 16],
    pub major: u16,
    pub minor: u16,
    pub data_offset: u64,
    pub npfns: u64,
    pub mode: u32,
    pub start_pad: u32,
    pub end_trunc: u32,
    pub align: u32,
    pub page_size: u32,
    pub page_struct_size: u16,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            signature: *b"NVDIMM_PFN_INFO\0",
            parent: UUID,
            major: 1,
            minor: 4,
            data_offset: 2 << 20,
            npfns: (254 << 20) / 4096,
            mode: 1,
            start_pad: 0,
            end_trunc: 0,
            align: 2 << 20,
            page_size: 4096,
            page_struct_size: 64,
        }
    }
}

impl Fields {
    /// The block, with its checksum.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut b = [0; SIZE];
        b[..16].copy_from_slice(&self.signature);
        b[16..32].copy_from_slice(&[0xab; 16]);
        b[32..48].copy_from_slice(&self.parent);
        b[52..54].copy_from_slice(&self.major.to_le_bytes());
        b[54..56].copy_from_slice(&self.minor.to_le_bytes());
        b[56..64].copy_from_slice(&self.data_offset.to_le_bytes());
        b[64..72].copy_from_slice(&self.npfns.to_le_bytes());
        b[72..76].copy_from_slice(&self.mode.to_le_bytes());
        b[76..80].copy_from_slice(&self.start_pad.to_le_bytes());
        b[80..84].copy_from_slice(&self.end_trunc.to_le_bytes());
        b[84..88].copy_from_slice(&self.align.to_le_bytes());
        b[88..92].copy_from_slice(&self.page_size.to_le_bytes());
        b[92..94].copy_from_slice(&self.page_struct_size.to_le_bytes());
        seal(&mut b);
        b
    }
}
