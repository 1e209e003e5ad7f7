// SPDX-License-Identifier: GPL-2.0

//! What has to hold for every input, whoever chooses it: the tests of this crate and the fuzz
//! targets in `tests/fuzz`. Each function panics if it does not. Expectations are computed in 128
//! bits, where nothing overflows, or by the kernel's own C code.

use crate::{
    libnvdimm::{self, DeviceMemory, Libnvdimm},
    logic::{
        dirty,
        extent::{dax_extent, pages_to_sectors, DaxExtent},
        fault::{plan, widen, Area, PfnRange, Plan, Run},
        geometry::{Geometry, GeometryError, Pfn, Pgoff, Sector, PAGE_SHIFT, PAGE_SIZE},
        info_block::{self, parse, InfoBlock, Kind, Namespace, PageMapLocation, Platform, SIZE},
        mmap,
        tracking::{self, Grant, Place},
    },
};
use core::ops::Range;

const PFN_SIGNATURE: &[u8; 16] = b"NVDIMM_PFN_INFO\0";
const DAX_SIGNATURE: &[u8; 16] = b"NVDIMM_DAX_INFO\0";

/// The little-endian number of `len` bytes at `at`.
fn number(block: &[u8; SIZE], at: usize, len: usize) -> i128 {
    let mut out = [0; 16];
    out[..len].copy_from_slice(&block[at..at + len]);
    i128::from_le_bytes(out)
}

/// Sets the checksum, with libnvdimm's own function.
pub fn seal(block: &mut [u8; SIZE]) {
    let sum = libnvdimm::checksum(block);
    block[SIZE - 8..].copy_from_slice(&sum.to_le_bytes());
}

/// Where the parser refuses what libnvdimm takes. The reasons, all of them.
fn stricter(block: &[u8; SIZE], namespace: &Namespace) -> Option<&'static str> {
    let minor = number(block, 54, 2);
    let since = |version, value, before| if minor < version { before } else { value };
    let offset = number(block, 56, 8);
    let pad = since(1, number(block, 76, 4), 0);
    let trunc = since(1, number(block, 80, 4), 0);
    let align = since(2, number(block, 84, 4), 0);
    let page_size = since(4, number(block, 88, 4), PAGE_SIZE.into());
    let (start, size) = (i128::from(namespace.start), i128::from(namespace.size));

    // IS_ALIGNED() has no meaning for them.
    if align & (align - 1) != 0 && align != 0 {
        return Some("alignment, not a power of two");
    }
    // altmap->free wraps.
    if number(block, 72, 4) == 2 && offset < info_block::RESERVE.into() {
        return Some("data offset inside the info block");
    }
    // `res_size - start_pad - end_trunc` wraps.
    if pad + trunc > size {
        return Some("padding beyond the namespace");
    }
    if start + size > u64::MAX.into() {
        return Some("namespace at the end of the address space");
    }
    if number(block, 64, 8) * page_size > size - pad - trunc - offset {
        return Some("more pages than the namespace holds");
    }
    None
}

/// What holds for every info block that is accepted.
fn layout_fits(found: &InfoBlock, namespace: &Namespace) -> Geometry {
    let (start, size) = (i128::from(namespace.start), i128::from(namespace.size));
    let pad = i128::from(found.start_pad);
    let mapped = size - pad - i128::from(found.end_trunc);
    let offset = i128::from(found.data_offset);
    assert!(found.align.is_power_of_two());
    assert!(offset >= info_block::RESERVE.into() && offset < mapped);
    assert_eq!((start + pad + offset) % i128::from(found.align), 0);
    // What src/driver/device.rs does with it.
    Geometry::new(
        (start + pad).try_into().expect("in the address space"),
        mapped.try_into().expect("in the address space"),
        found.data_offset,
    )
    .expect("an accepted layout has sectors")
}

/// Parses hostile bytes for a hostile namespace on any platform.
pub fn parse_anywhere(block: &[u8; SIZE], namespace: &Namespace, platform: &Platform) {
    let signed = block.starts_with(PFN_SIGNATURE) || block.starts_with(DAX_SIGNATURE);
    let sealed = number(block, SIZE - 8, 8) == libnvdimm::checksum(block).into();
    match parse(block, namespace, platform) {
        Ok(None) => assert!(!signed || sealed && block[32..48] != namespace.uuid),
        Err(damage) => {
            assert!(signed);
            assert_eq!(damage.what == "checksum", !sealed);
        }
        Ok(Some(found)) => {
            assert!(signed && sealed);
            // A data area smaller than a sector needs pages smaller than that.
            if platform.page_size >= PAGE_SIZE && platform.compat_align >= PAGE_SIZE {
                layout_fits(&found, namespace);
            }
        }
    }
}

/// Parses hostile bytes; accepted is what libnvdimm accepts, but for the reasons above, and it
/// means the same. Gives what was found.
pub fn parse_as_libnvdimm(block: &[u8; SIZE], libnvdimm: &Libnvdimm) -> Option<InfoBlock> {
    let namespace = &libnvdimm.namespace;
    let platform = Platform {
        page_size: PAGE_SIZE,
        page_struct_size: libnvdimm.struct_page.size(),
        compat_align: libnvdimm.compat_align,
    };
    parse_anywhere(block, namespace, &platform);
    assert_eq!(info_block::checksum(block), libnvdimm::checksum(block));

    let libnvdimm = Libnvdimm {
        devdax: block.starts_with(DAX_SIGNATURE),
        ..*libnvdimm
    };
    let parsed = parse(block, namespace, &platform);
    let (layout, found) = match (libnvdimm.open(block), parsed) {
        (Ok(layout), Ok(Some(found))) => (layout, found),
        (Err(rc), Ok(Some(found))) => panic!("libnvdimm refuses it with {rc}: {found:?}"),
        (Ok(layout), Ok(None)) => panic!("libnvdimm finds {layout:?}"),
        (Ok(layout), Err(damage)) => {
            assert!(
                stricter(block, namespace).is_some(),
                "{damage:?}, but libnvdimm takes it: {layout:?}"
            );
            return None;
        }
        (Err(_), _) => return None,
    };
    assert_eq!(stricter(block, namespace), None, "{found:?}");

    assert_eq!(found.kind == Kind::Devdax, libnvdimm.devdax);
    assert_eq!(found.uuid[..], block[16..32]);
    assert_eq!(found.map == PageMapLocation::Pmem, layout.mode == 2);
    assert_eq!(
        (found.data_offset, found.align, layout.written),
        (layout.data_offset, layout.align, 0)
    );
    assert_eq!(
        (layout.start, layout.end),
        (
            namespace.start + u64::from(found.start_pad),
            namespace.start + (namespace.size - 1) - u64::from(found.end_trunc)
        )
    );
    let geometry = layout_fits(&found, namespace);
    assert_eq!(geometry.data_range().1, layout.end);
    if found.map == PageMapLocation::Pmem {
        assert_eq!((geometry.sectors() * 512) >> PAGE_SHIFT, layout.npfns);
        // The page map lies between the info block and the data.
        assert!(layout.altmap_free <= found.data_offset >> PAGE_SHIFT);
    }
    // set_capacity() in pmem_attach_disk().
    let pfn_pad = namespace.size - (layout.end - layout.start + 1);
    assert_eq!(
        geometry.sectors(),
        (namespace.size - pfn_pad - found.data_offset) / 512
    );
    Some(found)
}

/// An info block that libnvdimm makes for a device that userspace has configured. Gives whether
/// there is one.
pub fn create_as_libnvdimm(libnvdimm: &Libnvdimm, map: PageMapLocation, align: u64) -> bool {
    let uuid = [0xc7; 16];
    let Ok((block, layout)) = libnvdimm.create(&uuid, map, align) else {
        return false;
    };
    assert_eq!(layout.written, 1);
    let Some(found) = parse_as_libnvdimm(&block, libnvdimm) else {
        // libnvdimm makes blocks that it does not take back, and ones whose padding wraps, where a
        // namespace has no room for one aligned page.
        let reason = stricter(&block, &libnvdimm.namespace);
        assert!(
            reason == Some("padding beyond the namespace")
                || (reason.is_none() && libnvdimm.open(&block).is_err()),
            "{reason:?}: {libnvdimm:?} {layout:?}"
        );
        return false;
    };
    assert_eq!((found.uuid, found.map), (uuid, map));
    assert_eq!(
        (found.data_offset, found.align),
        (layout.data_offset, align)
    );
    true
}

/// A device, and positions on it that are anything.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// Physical address of the mapping.
    pub map_phys: u64,
    /// Size of the mapping.
    pub map_len: u64,
    /// From there to the data.
    pub data_offset: u64,
    /// A sector, or a page of the DAX device.
    pub sector: u64,
    /// The length of a transfer.
    pub bytes: u64,
    /// A physical page.
    pub pfn: u64,
    /// An offset into the mapping.
    pub offset: u64,
}

/// All of a geometry; `None` if there is none.
pub fn geometry(p: &Positions) -> Option<Geometry> {
    let wide = |value: u64| i128::from(value);
    let (phys, len, offset) = (wide(p.map_phys), wide(p.map_len), wide(p.data_offset));
    let page = wide(PAGE_SIZE);

    assert_eq!(
        Pgoff(p.sector).to_sector(),
        u64::try_from(wide(p.sector) * 8).ok().map(Sector)
    );
    let new = Geometry::new(p.map_phys, p.map_len, p.data_offset);
    if phys + len > wide(u64::MAX) || len - offset < 512 {
        assert_eq!(new, Err(GeometryError::Invalid));
        return None;
    }
    let g = new.expect("a device with a sector");
    let capacity = (len - offset) / 512 * 512;
    assert_eq!(wide(g.sectors()) * 512, capacity);
    assert_eq!(g.data_offset(), p.data_offset);
    assert_eq!(wide(g.data_phys()), phys + offset);
    assert_eq!(
        (wide(g.data_range().0), wide(g.data_range().1)),
        (phys + offset, phys + len - 1)
    );
    let c = DeviceMemory {
        phys: p.map_phys,
        data_offset: p.data_offset,
        size: p.map_len,
        pfn_pad: 0,
    };

    let start = wide(p.sector) * 512;
    match g.sector_to_offset(Sector(p.sector), p.bytes) {
        Ok(at) => {
            assert!(start + wide(p.bytes) <= capacity);
            assert_eq!(at as u64, c.to_offset(p.sector));
            assert_eq!(at as i128, offset + start);
        }
        Err(err) => {
            assert_eq!(err, GeometryError::OutOfRange);
            assert!(start + wide(p.bytes) > capacity);
        }
    }

    let data = phys + offset + start;
    match g.sector_to_pfn(Sector(p.sector)) {
        Ok((pfn, pages)) => {
            assert_eq!(wide(pfn.0) * page, data);
            assert_eq!(wide(pages), (capacity - start) / page);
            assert!(pages > 0);
            // The way back, from the first and from the last of them, and from no other.
            let at = g.pfn_to_offset(pfn).expect("a page of the device");
            assert_eq!(Ok(at), g.sector_to_offset(Sector(p.sector), PAGE_SIZE));
            assert_eq!(g.offset_to_phys(at), Ok(pfn.0 << PAGE_SHIFT));
            let last = Pfn(pfn.0 + (pages - 1));
            assert!(g.pfn_to_offset(last).is_ok());
            assert!(g.pfn_to_offset(Pfn(last.0 + 1)).is_err());
            // pmem.c knows DAX offsets only: sectors at the start of a page.
            if p.sector % 8 == 0 {
                let (rest, answer) = c.direct_access(p.sector / 8, 1, false, false, None);
                assert_eq!(rest, Ok(pages));
                assert_eq!((answer.offset, answer.pfn), (at as u64, pfn.0));
            }
        }
        Err(GeometryError::Unaligned) => assert!(start < capacity && data % page != 0),
        Err(err) => {
            assert_eq!(err, GeometryError::OutOfRange);
            assert!(capacity - start < page);
        }
    }

    let (from, to) = (wide(p.pfn) * page, wide(p.pfn) * page + page);
    match g.pfn_to_offset(Pfn(p.pfn)) {
        Ok(at) => {
            assert!(from >= phys + offset && to <= phys + offset + capacity);
            assert_eq!(at as i128, from - phys);
        }
        Err(err) => {
            assert_eq!(err, GeometryError::OutOfRange);
            assert!(from < phys + offset || to > phys + offset + capacity);
        }
    }

    let at = usize::try_from(p.offset).expect("64 bits");
    match g.offset_to_phys(at) {
        Ok(found) => {
            assert!(wide(p.offset) < len);
            assert_eq!(wide(found), phys + wide(p.offset));
            assert_eq!(found, c.to_phys(p.offset));
        }
        Err(err) => {
            assert_eq!(err, GeometryError::OutOfRange);
            assert!(wide(p.offset) >= len);
        }
    }
    Some(g)
}

/// The answer to one direct access is that of `__pmem_direct_access()`.
pub fn extent(page: u64, requested: u64, first_bad: Option<u64>, recovery: bool) {
    let sectors = pages_to_sectors(requested);
    assert_eq!(
        u128::from(sectors),
        (u128::from(requested) * 8).min(u64::MAX.into())
    );
    // Beyond that, PFN_PHYS() in pmem.c loses bits.
    let page = page & (u64::MAX >> PAGE_SHIFT);
    let start = Pgoff(page).to_sector().expect("no bits lost");
    let answer = dax_extent(start, requested, first_bad.map(Sector), recovery);
    if let Some(bad) = first_bad.filter(|bad| *bad < start.0) {
        // The list gives the start of the bad range, which may be in front of what was asked for.
        // pmem.c then computes a negative distance; here it is the first page that is bad.
        let expected = match recovery {
            true => DaxExtent::Pages(1),
            false => DaxExtent::HwPoison,
        };
        assert_eq!(answer, expected, "bad sector {bad}");
        return;
    }
    // As far as pmem.c's types go, in what they are: pages in a long, sectors in an unsigned int,
    // and a distance in bytes.
    let distance = first_bad.map_or(0, |bad| bad - start.0);
    let (Ok(pages), true) = (i64::try_from(requested), distance < u64::MAX >> 10) else {
        return;
    };
    let c = DeviceMemory {
        phys: 0,
        data_offset: 0,
        size: u64::MAX,
        pfn_pad: 0,
    };
    let (expected, asked) = c.direct_access(page, pages, recovery, true, first_bad);
    match answer {
        DaxExtent::Pages(pages) => assert_eq!(expected, Ok(pages)),
        // EHWPOISON
        DaxExtent::HwPoison => assert_eq!(expected, Err(-133)),
    }
    if let Ok(num) = u32::try_from(sectors) {
        assert_eq!((asked.asked, asked.asked_num), (start.0, num.into()));
    }
}

/// A recovery write to `pages` (up to 16) pages, where bit n of `bad` is a bad n-th sector, is cut
/// in extents that cover all of them once, and that hold a bad page at their end only.
pub fn extents_tile(page: u64, pages: u64, bad: u128) {
    let sector_of = |page| Pgoff(page).to_sector().expect("no bits lost").0;
    let first_bad_from = |done: u64| {
        let next = (done * 8..pages * 8).find(|bit| (bad >> bit) & 1 != 0);
        next.map(|bit| Sector(sector_of(page) + bit))
    };
    let mut done = 0;
    while done < pages {
        let start = Sector(sector_of(page + done));
        let (left, first_bad) = (pages - done, first_bad_from(done));
        let ordinary = dax_extent(start, left, first_bad, false);
        assert_eq!(ordinary == DaxExtent::HwPoison, first_bad.is_some());
        let DaxExtent::Pages(n) = dax_extent(start, left, first_bad, true) else {
            panic!("a recovery write is refused");
        };
        assert!((1..=left).contains(&n));
        for good in done..done + n - 1 {
            assert_eq!(
                (bad >> (good * 8)) & 0xff,
                0,
                "a bad page inside of an extent"
            );
        }
        assert!(first_bad.is_some() || n == left);
        done += n;
    }
    assert_eq!(done, pages);
}

/// A fault at `address` with an entry of 2^`order` pages, where the pages of the device for which
/// `bad` is true have poison: what is mapped is exactly what belongs there, and nothing that could
/// have been mapped is refused.
pub fn fault(area: Area, memory: PfnRange, address: u64, order: u32, bad: &dyn Fn(u64) -> bool) {
    let any_bad = |page: u64, pages: u64| (page..page + pages).any(bad);
    let pages = 1u128 << order.min(100);
    let bytes = pages << PAGE_SHIFT;
    let start = u128::from(address) / bytes * bytes;
    let inside = start >= area.start.into() && start + bytes <= area.end.into();
    let page = (start.wrapping_sub(area.start.into()) >> PAGE_SHIFT) + u128::from(area.first);
    let pfn = u128::from(memory.pfn.0) + page;
    let there = inside && page + pages <= memory.pages.into() && pfn % pages == 0;
    let miss = if order == 0 {
        Plan::Sigbus
    } else {
        Plan::Fallback
    };
    let got = plan(&area, &memory, address, order, any_bad);
    if !there {
        assert_eq!(got, miss);
    } else if any_bad(page as u64, pages as u64) {
        let poison = if order == 0 {
            Plan::HwPoison
        } else {
            Plan::Fallback
        };
        assert_eq!(got, poison);
    } else {
        let run = Run {
            address: start as u64,
            page: page as u64,
            pfn: Pfn(pfn as u64),
            pages: pages as u64,
        };
        assert_eq!(got, Plan::Map(run));
        if order == 0 {
            fault_around(area, memory, run, bad);
        }
    }
}

/// Pages that are mapped with one that is touched: they are in the mapping, in the memory, in the
/// same block, linear with the one, and good; and as many as that allows.
fn fault_around(area: Area, memory: PfnRange, one: Run, bad: &dyn Fn(u64) -> bool) {
    let any_bad = |page: u64, pages: u64| (page..page + pages).any(bad);
    for around in [1, 2, 16, 64, 512] {
        let run = widen(&area, &memory, one, around, any_bad);
        let end = run.address + (run.pages << PAGE_SHIFT);
        assert!(run.address <= one.address && one.address < end);
        assert!(run.address >= area.start && end <= area.end);
        let block = |address: u64| address >> PAGE_SHIFT as u64 >> around.trailing_zeros();
        assert_eq!(block(run.address), block(end - 1));
        let back = (one.address - run.address) >> PAGE_SHIFT;
        assert_eq!((run.page, run.pfn.0), (one.page - back, one.pfn.0 - back));
        assert!(run.page + run.pages <= memory.pages);
        assert!(!any_bad(run.page, run.pages));
        // One page more at either end is not possible, or there is poison in between.
        if run.pages > 1 || around == 1 {
            let low = run.address == area.start || run.page == 0;
            let high = end == area.end || run.page + run.pages == memory.pages;
            assert!(low || block(run.address - PAGE_SIZE) != block(run.address));
            assert!(high || block(end) != block(run.address));
        }
    }
}

/// A part of a file is on the device, in one window, or refused.
pub fn located(device: mmap::Device, pgoff: u64, pages: u64) {
    let window = u128::from(mmap::DIRECT_WINDOW >> PAGE_SHIFT);
    let (pgoff_, pages_) = (u128::from(pgoff), u128::from(pages));
    let fits = |base: u128| {
        pages > 0
            && device.pages <= window as u64
            && pgoff_ >= base
            && pgoff_ + pages_ <= base + u128::from(device.pages)
    };
    match mmap::locate(&device, pgoff, pages) {
        Ok(extent) => {
            assert_eq!(extent.pages, pages);
            assert!(fits(if extent.direct { window } else { 0 }));
            let first = pgoff_ - if extent.direct { window } else { 0 };
            assert_eq!(u128::from(extent.first), first);
            // Where faults look for the pages of what has been admitted.
            assert_eq!(mmap::page_at(pgoff), extent.first);
            assert_eq!(mmap::page_at(pgoff + pages - 1), extent.first + pages - 1);
        }
        Err(why) => {
            assert_eq!(why, mmap::Refusal::OutOfRange);
            assert!(!fits(0) && !fits(window));
        }
    }
}

/// What is written back is what was asked for, and on the device.
pub fn write_back(device: mmap::Device, first: u64, last: u64) {
    let got = mmap::pages_of(&device, first, last);
    assert!(got.start <= got.end && got.end <= device.pages);
    let window = if first >= mmap::DIRECT_WINDOW {
        mmap::DIRECT_WINDOW
    } else {
        0
    };
    for page in [0, 1, got.start, got.end, device.pages / 2, device.pages] {
        if page >= device.pages {
            continue;
        }
        let start = u128::from(page) << PAGE_SHIFT;
        let asked = start + u128::from(PAGE_SIZE) > u128::from(first - window)
            && start <= u128::from(last.saturating_sub(window))
            && last >= first;
        assert!(
            !asked || got.contains(&page),
            "{page} of {first:#x}-{last:#x}"
        );
        let nothing = last < first;
        assert!(
            asked || nothing || !got.contains(&page),
            "{page} of {first:#x}-{last:#x}"
        );
    }
}

/// Bits of a word in a range, and runs of bits, are those that counting gives.
pub fn bits(words: &[u64], range: Range<u64>) {
    for word in 0..words.len() as u64 + 2 {
        let mask = dirty::mask(word, &range);
        for bit in 0..dirty::WORD {
            let inside = range.contains(&(word * dirty::WORD + bit));
            assert_eq!((mask >> bit) & 1 != 0, inside);
        }
    }
    let set = |at: u64| (words[(at / 64) as usize] >> (at % 64)) & 1 != 0;
    let end = words.len() as u64 * 64;
    let inside = range.start.min(end)..range.end.min(end);
    if !inside.is_empty() {
        let word = |n: u64| words[n as usize];
        let all = dirty::all_set(inside.start, inside.end - 1, word);
        assert_eq!(all, inside.clone().all(set), "{inside:?}");
    }
    let mut at = 0;
    for run in dirty::runs(words) {
        assert!(run.start >= at && run.start < run.end && run.end <= end);
        assert!(at == 0 || run.start > at);
        assert!((at..run.start).all(|at| !set(at)));
        assert!(run.clone().all(set));
        assert!(run.end == end || !set(run.end));
        at = run.end;
    }
    assert!((at..end).all(|at| !set(at)));
}

/// What a store makes writable: its own page, of the place, and no more than the place has.
pub fn grant(place: &Place, page: u64, is_marked: &dyn Fn(u64) -> bool) -> Grant {
    let grant = tracking::grant(place, page, is_marked);
    if let Grant::Pages(pages) = &grant {
        assert!(pages.contains(&page), "{pages:?} for {page}");
        assert!(place.pages.start <= pages.start && pages.end <= place.pages.end);
    }
    grant
}

/// Which page table a place takes: one that there is.
pub fn victim(
    tables: u64,
    at: u32,
    block: u32,
    turn: u32,
    is_dense: &dyn Fn(u32) -> bool,
) -> Option<(u32, bool)> {
    let victim = tracking::victim(tables, at, block, || turn, is_dense);
    assert!(
        victim.is_none_or(|(from, _)| (tables >> from) & 1 == 1),
        "{victim:?} of {tables:#x}"
    );
    victim
}
