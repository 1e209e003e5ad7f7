// SPDX-License-Identifier: GPL-2.0

//! Attributes of the node in sysfs: `/sys/class/rpmem/rpmemN/`.

use super::Node;
use crate::{
    abstractions::{
        device_attributes::{
            attribute,
            DeviceAttribute, //
        },
        file_operations::Operations,
        sysfs::{
            self,
            AttributeGroup,
            AttributeGroups, //
        }, //
    },
    logic::geometry::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    }, //
};
use core::fmt::Write;
use kernel::prelude::*;

macro_rules! attributes {
    ($($name:ident: $file:literal, $doc:literal, |$node:ident| $value:expr;)*) => {
        $(
            #[doc = $doc]
            struct $name;

            impl DeviceAttribute<Node> for $name {
                const NAME: &'static CStr = $file;

                fn show($node: &Node, out: &mut dyn Write) -> core::fmt::Result {
                    writeln!(out, "{}", $value)
                }
            }
        )*
    };
}

attributes! {
    Size: c"size", "Bytes that can be mapped.", |node| Operations::size(node);
    NumaNode: c"numa_node", "The NUMA node of the memory, -1 if it has none.", |node| node.numa_node;
    PageBacked: c"page_backed", "Whether there are struct pages.", |node| u32::from(node.page_backed);
    Pinnable: c"pinnable", "Whether get_user_pages works on mappings.",
        |node| u32::from(node.folios.is_some());
    Align: c"align", "Alignment at which mappings have the largest entries, in bytes.",
        |node| PAGE_SIZE << node.folios.unwrap_or(node.largest_order());
    Synchronous: c"synchronous", "Whether MAP_SYNC is possible.",
        |node| u32::from(node.limits.synchronous);
    HugePage: c"huge_page", "The largest entry that a mapping can have, in bytes.",
        |node| PAGE_SIZE << node.largest_order();
    Mappings: c"mappings", "Mappings that live.",
        |node| node.tracker.mappings();
}

/// The physical address of the first byte that can be mapped.
struct Resource;

impl DeviceAttribute<Node> for Resource {
    const NAME: &'static CStr = c"resource";

    // As /proc/iomem.
    const PRIVATE: bool = true;

    fn show(node: &Node, out: &mut dyn Write) -> core::fmt::Result {
        writeln!(out, "{:#x}", node.pfns.pfn.0 << PAGE_SHIFT)
    }
}

/// The processes that have mappings, a line each: number, direct mappings, mappings, name.
struct Holders;

impl DeviceAttribute<Node> for Holders {
    const NAME: &'static CStr = c"holders";

    // It would tell anybody of processes that pid namespaces and hidepid keep from him.
    const PRIVATE: bool = true;

    fn show(node: &Node, out: &mut dyn Write) -> core::fmt::Result {
        node.lease.show_holders(out)
    }
}

/// How long direct mappings are left to their holders when they are taken back: seconds, -1 is for
/// ever.
struct LeaseBreakTime;

impl DeviceAttribute<Node> for LeaseBreakTime {
    const NAME: &'static CStr = c"lease_break_time";
    const STORE: Option<fn(&Node, &[u8]) -> Result> =
        Some(|node, text| node.lease.store_grace(text));

    fn show(node: &Node, out: &mut dyn Write) -> core::fmt::Result {
        node.lease.show_grace(out)
    }
}

sysfs::attributes! {
    static ATTRIBUTES: Node = attribute[
        Size,
        NumaNode,
        Resource,
        PageBacked,
        Pinnable,
        Align,
        Synchronous,
        HugePage,
        Mappings,
        Holders,
        LeaseBreakTime,
    ];
}
static GROUP: AttributeGroup<Node> = AttributeGroup::new(None, &ATTRIBUTES);
pub(super) static GROUPS: AttributeGroups<Node> = AttributeGroups::new(&GROUP);
