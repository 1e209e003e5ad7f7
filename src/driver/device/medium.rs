// SPDX-License-Identifier: GPL-2.0

//! What is on the medium of a namespace: its info block, and what that says of struct pages.
//!
//! C counterpart: `nd_pfn_validate()` and `nvdimm_setup_pfn()` in `drivers/nvdimm/pfn_devs.c`.

use crate::{
    abstractions::{
        errno::eopnotsupp,
        nd_namespace::{
            ClaimClass,
            Namespace,
            RawAccess, //
        },
        pagemap::PageMapRange,
        platform,
        vma::PMD_ORDER, //
    },
    logic::{
        geometry::{
            self,
            PAGE_SIZE, //
        },
        info_block::{
            self,
            InfoBlock,
            Kind,
            PageMapLocation, //
        }, //
    }, //
};
use kernel::{
    device::{
        Core,
        Device, //
    },
    prelude::*, //
};

/// What a user can do about an info block that was refused, without a change to the medium.
pub(super) const REMEDY: &str =
    "'ndctl read-infoblock' shows it, with 1 in force_raw the raw namespace can be read";

/// Reads and verifies the info block of a namespace. A damaged one, or one that cannot be read, is
/// an error: what is in such a namespace is not known, so it is neither offered as a raw device nor
/// changed.
pub(super) fn read_info_block(
    dev: &Device<Core<'_>>,
    namespace: &Namespace<'_>,
    raw: &RawAccess<'_, '_>,
) -> Result<Option<InfoBlock>> {
    let mut block = KBox::init(
        pin_init::init_zeroed::<[u8; info_block::SIZE]>(),
        GFP_KERNEL,
    )?;
    if let Err(err) = raw.read(info_block::OFFSET, &mut *block) {
        dev_err!(
            dev,
            "info block cannot be read ({}), no device; {}\n",
            err.to_errno(),
            "write 1 to force_raw in sysfs to use the raw namespace"
        );
        return Err(eopnotsupp());
    }

    let (first, last) = namespace.resource();
    let carrier = info_block::Namespace {
        start: first,
        size: (last - first).saturating_add(1),
        uuid: namespace.uuid(),
    };
    let platform = info_block::Platform {
        page_size: PAGE_SIZE,
        page_struct_size: platform::PAGE_STRUCT_SIZE,
        compat_align: platform::memremap_compat_align(),
    };
    let found = info_block::parse(&block, &carrier, &platform).map_err(|damage| {
        dev_err!(
            dev,
            "info block damaged, no device, nothing written: {}: found {:#x}, expected {:#x}; {}\n",
            damage.what,
            damage.found,
            damage.expected,
            REMEDY
        );
        eopnotsupp()
    })?;
    if found.is_none() && info_block::is_signed(&block) {
        dev_info!(
            dev,
            "the info block is of another namespace, and counts as contents\n"
        );
    }
    Ok(found)
}

/// The info block, if the label of the namespace lets its kind claim it.
pub(super) fn claimable(namespace: &Namespace<'_>, block: Option<InfoBlock>) -> Option<InfoBlock> {
    block.filter(|block| {
        matches!(
            (namespace.claim_class(), block.kind),
            (ClaimClass::None, _)
                | (ClaimClass::Pfn, Kind::Fsdax)
                | (ClaimClass::Dax, Kind::Devdax)
        )
    })
}

/// Prepares the pfn or dax device under probe, which is of `kind`: gives the range to map with
/// struct pages, and the info block.
///
/// libnvdimm makes range and altmap (and the info block itself, on a device that userspace has just
/// configured and whose namespace has none, or one left over); they are checked against the block
/// as it is on the medium.
///
/// Struct pages must be there for as long as somebody has the memory in use: those of memory that can vanish
/// are in system memory, whatever the block says. The data is where it is in any case.
pub(super) fn setup_pfn(
    dev: &Device<Core<'_>>,
    namespace: &Namespace<'_>,
    kind: Kind,
) -> Result<(PageMapRange, InfoBlock)> {
    let raw = namespace.enable(info_block::RESERVE)?;
    let mut uuid = [0; 16];
    // A block with another uuid is left over from what was here before: userspace has asked for a
    // new one, which libnvdimm writes. One with this device's uuid has to be as it should be.
    if raw
        .read(info_block::OFFSET + info_block::UUID_AT, &mut uuid)
        .is_err()
        || namespace.pfn_uuid() == Some(uuid)
    {
        read_info_block(dev, namespace, &raw)?;
    }

    let (raw, range) = raw.setup_pfn()?;
    let block = match read_info_block(dev, namespace, &raw)? {
        Some(block) if block.kind == kind => block,
        _ => {
            dev_err!(dev, "info block vanished, no device\n");
            return Err(EIO);
        }
    };

    let (first, last) = namespace.resource();
    let padding = u64::from(block.start_pad) + u64::from(block.end_trunc);
    let expected = (
        first + u64::from(block.start_pad),
        // The parser has checked that the padding is less than the namespace.
        (last - first + 1) - padding,
    );
    if range.range() != expected || range.on_medium() != (block.map == PageMapLocation::Pmem) {
        dev_err!(dev, "info block changed while it was used, no device\n");
        return Err(EIO);
    }
    if !range.on_medium() || !namespace.can_vanish() {
        return Ok((range, block));
    }
    let (_, len) = range.range();
    dev_notice!(
        dev,
        "CXL memory can be removed while it is used: {}, {} MiB at most\n",
        "its struct pages are in system memory, not on the medium",
        (len / PAGE_SIZE * platform::PAGE_STRUCT_SIZE).div_ceil(1 << 20)
    );
    Ok((range.in_system_memory(), block))
}

/// log2 of the pages of the folios of a devdax namespace: those that can have entries, see
/// [`crate::abstractions::vma::Fault::insert_folio`].
pub(super) fn folio_order(range: &PageMapRange, block: &InfoBlock) -> u32 {
    let (start, len) = range.range();
    let data = start + block.data_offset;
    // Struct pages on the medium are for the data alone.
    let first = if range.on_medium() { data } else { start };
    geometry::folio_order(block.align, first, data, start + len, &[PMD_ORDER])
}
