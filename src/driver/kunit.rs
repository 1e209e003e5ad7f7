// SPDX-License-Identifier: GPL-2.0

//! The driver on system memory, with firmware and region that answer as they are told.

use super::{
    device::Bound,
    pmem::{
        DaxDevice,
        Pmem, //
    },
    sysfs, //
};
use crate::{
    abstractions::{
        block::NewDisk,
        dax,
        deferred_drop::DeferredDrop,
        kunit::{
            claim_nothing,
            Ram,
            TestBus,
            TestDisk,
            RAM_SIZE, //
        },
        nd_region::Region, //
    },
    logic::geometry::Geometry, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The data starts here, behind what stands for info block and page map.
const DATA: usize = 4096;
/// Three pages.
const SECTORS: u64 = ((RAM_SIZE - DATA) / 512) as u64;

/// A namespace of system memory. Fields are dropped in this order.
struct Setup {
    pmem: Arc<Pmem>,
    bus: TestBus,
    ram: Ram,
}

impl Setup {
    fn new() -> Result<Self> {
        let ram = Ram::new(0x11)?;
        let bus = TestBus::new()?;
        let geometry = Geometry::new(ram.phys(), RAM_SIZE as u64, DATA as u64)?;
        let (_, claim) = claim_nothing(1 << 20, bus.child().name())?;
        let pmem = Pmem::new(geometry, ram.map()?, claim, Region::of_bus(&bus));
        let pmem = Arc::pin_init(pmem, GFP_KERNEL)?;
        Ok(Self { pmem, bus, ram })
    }

    /// One with these sectors bad.
    fn bad(start: u64, sectors: u64) -> Result<Self> {
        let setup = Self::new()?;
        if !setup.pmem.badblocks().mark(start, sectors) {
            return Err(EINVAL);
        }
        Ok(setup)
    }

    /// Binds it as `attach()` does. What keeps the memory comes first, so that it is dropped last.
    fn bind(self) -> Result<(TestBus, Ram, Bound)> {
        let Self { pmem, bus, ram } = self;
        let dev = bus.child().core();
        let dax = Arc::new(dax::Device::new(pmem.clone())?, GFP_KERNEL)?;
        let mut disk: NewDisk<DaxDevice> =
            NewDisk::new(dev, &TestDisk::LIMITS, SECTORS, dax.clone())?;
        disk.set_name(bus.child().name());
        let host = dax::Host::new(dax, &disk)?;
        let disk = disk.add(dev, &sysfs::GROUPS).map_err(|(err, _)| err)?;
        let memory = pmem.mapping().memory().clone();
        let memory = DeferredDrop::new(memory, c"kunit", 0..0, None)?;
        let bound = Bound {
            node: None,
            _host: host,
            disk,
            pmem,
            _memory: memory,
        };
        Ok((bus, ram, bound))
    }
}

#[kernel::macros::kunit_tests(rpmem_pmem)]
mod pmem {
    use super::*;
    use crate::abstractions::kunit::with_segment;

    #[test]
    fn reads_and_writes_are_of_the_mapping() -> Result {
        let s = Setup::new()?;
        let memory = Ram::new(0x22)?;
        with_segment(&memory, 0, 5000, |from| s.pmem.write(DATA + 512, from))?;
        assert!(s.ram.is(0, DATA + 512, 0x11) && s.ram.is(DATA + 512, DATA + 5512, 0x22));
        assert!(s.ram.is(DATA + 5512, RAM_SIZE, 0x11));
        with_segment(&memory, 8192, 1024, |to| s.pmem.read(DATA, &to))?;
        assert!(memory.is(8192, 8704, 0x11) && memory.is(8704, 9216, 0x22));
        Ok(())
    }

    #[test]
    fn bad_sectors_are_not_read() -> Result {
        let s = Setup::bad(9, 1)?;
        let memory = Ram::new(0x22)?;
        let read = |sector: usize, len| {
            with_segment(&memory, 0, len, |to| s.pmem.read(DATA + sector * 512, &to))
        };
        assert_eq!(read(9, 512), Err(EIO));
        assert_eq!(read(0, 5120), Err(EIO));
        assert!(memory.is(0, RAM_SIZE, 0x22));
        // Up to it, and from behind it on.
        assert_eq!(read(0, 9 * 512), Ok(()));
        assert_eq!(read(10, 4096), Ok(()));
        Ok(())
    }

    #[test]
    fn writes_clear_poison() -> Result {
        let s = Setup::bad(9, 1)?;
        let memory = Ram::new(0x22)?;
        with_segment(&memory, 0, 8192, |from| s.pmem.write(DATA, from))?;
        assert!(s.pmem.badblocks().is_empty());
        assert!(s.ram.is(DATA, DATA + 8192, 0x22) && s.ram.is(DATA + 8192, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn writes_stop_where_poison_stays() -> Result {
        let s = Setup::bad(9, 1)?;
        s.bus.set_clear_limit(0);
        let memory = Ram::new(0x22)?;
        let write = with_segment(&memory, 0, 12288, |from| s.pmem.write(DATA, from));
        assert_eq!(write, Err(EIO));
        // The page in front has been written.
        assert!(s.ram.is(DATA, DATA + 4096, 0x22) && s.ram.is(DATA + 4096, RAM_SIZE, 0x11));
        assert_eq!(s.pmem.badblocks().first_bad(0, SECTORS), Some(9));
        Ok(())
    }

    #[test]
    fn what_was_cleared_is_forgotten_and_no_more() -> Result {
        let s = Setup::bad(8, 8)?;
        s.bus.set_clear_limit(1024);
        let memory = Ram::new(0x22)?;
        let write = with_segment(&memory, 0, 4096, |from| s.pmem.write(DATA + 4096, from));
        assert_eq!(write, Err(EIO));
        assert_eq!(s.pmem.badblocks().first_bad(0, SECTORS), Some(10));
        assert!(s.ram.is(0, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn writes_beside_poison_leave_it() -> Result {
        let s = Setup::bad(9, 1)?;
        let memory = Ram::new(0x22)?;
        with_segment(&memory, 0, 512, |from| s.pmem.write(DATA + 8 * 512, from))?;
        with_segment(&memory, 0, 512, |from| s.pmem.write(DATA + 10 * 512, from))?;
        assert_eq!(s.pmem.badblocks().first_bad(0, SECTORS), Some(9));
        Ok(())
    }

    #[test]
    fn zeroing_clears_poison_or_fails() -> Result {
        let s = Setup::bad(9, 1)?;
        s.bus.set_clear_limit(512);
        assert_eq!(s.pmem.zero_page(DATA + 4096), Err(EIO));
        assert!(s.ram.is(0, RAM_SIZE, 0x11));
        s.bus.set_clear_limit(u64::MAX);
        assert!(s.pmem.badblocks().mark(9, 1));
        s.pmem.zero_page(DATA + 4096)?;
        assert!(s.pmem.badblocks().is_empty());
        assert!(s.ram.is(DATA, DATA + 4096, 0x11) && s.ram.is(DATA + 4096, DATA + 8192, 0));
        Ok(())
    }
}

#[kernel::macros::kunit_tests(rpmem_daxops)]
mod daxops {
    use super::*;
    use crate::{
        abstractions::{
            dax::{
                AccessMode::{
                    Access,
                    RecoveryWrite, //
                },
                Operations, //
            },
            errno::ehwpoison,
            kunit::with_source, //
        },
        logic::geometry::{
            Pfn,
            Pgoff,
            Sector, //
        }, //
    };

    impl Setup {
        /// The first page of data.
        fn first(&self) -> u64 {
            self.pmem.geometry().data_phys() >> 12
        }

        /// A recovery write of `len` bytes of 0x22 at `offset` of the mapping.
        fn recover(&self, pgoff: u64, offset: usize, bytes: usize, len: usize) -> Result<usize> {
            let memory = Ram::new(0x22)?;
            Ok(with_source(&memory, len, |source| {
                self.pmem
                    .recovery_write(Pgoff(pgoff), offset, bytes, source)
            }))
        }
    }

    #[test]
    fn translations_end_with_the_device() -> Result {
        let s = Setup::new()?;
        let pfn = |sector, mode| s.pmem.sector_to_pfn(Sector(sector), 100, mode);
        for mode in [Access, RecoveryWrite] {
            assert_eq!(pfn(0, mode), Ok((Pfn(s.first()), 3)));
            assert_eq!(pfn(16, mode), Ok((Pfn(s.first() + 2), 1)));
            assert_eq!(pfn(24, mode), Err(ERANGE));
            assert_eq!(pfn(1, mode), Err(ENXIO));
        }
        Ok(())
    }

    #[test]
    fn bad_sectors_stop_ordinary_access_alone() -> Result {
        let s = Setup::bad(9, 1)?;
        let pages = |sector, nr_pages, mode| {
            s.pmem
                .sector_to_pfn(Sector(sector), nr_pages, mode)
                .map(|(_, pages)| pages)
        };
        assert_eq!(pages(0, 3, Access), Err(ehwpoison()));
        assert_eq!(pages(8, 1, Access), Err(ehwpoison()));
        // The bad sector is not among those asked for.
        assert_eq!(pages(0, 1, Access), Ok(1));
        assert_eq!(pages(16, 1, Access), Ok(1));
        assert_eq!(pages(0, 3, RecoveryWrite), Ok(2));
        assert_eq!(pages(8, 2, RecoveryWrite), Ok(1));
        assert_eq!(pages(0, u64::MAX, RecoveryWrite), Ok(2));
        Ok(())
    }

    #[test]
    fn addresses_are_of_data_alone() -> Result {
        let s = Setup::new()?;
        let base = s.pmem.mapping().address(0, 1)?.as_ptr() as usize;
        let virt = |pfn| s.pmem.pfn_to_virt(Pfn(pfn)).map(|a| a.as_ptr() as usize);
        assert_eq!(virt(s.first()), Ok(base + DATA));
        assert_eq!(virt(s.first() + 2), Ok(base + DATA + 8192));
        assert_eq!(virt(s.first() - 1), Err(ERANGE));
        assert_eq!(virt(s.first() + 3), Err(ERANGE));
        Ok(())
    }

    #[test]
    fn zeroes_stay_inside() -> Result {
        let s = Setup::new()?;
        let zero = |pgoff, pages| s.pmem.zero_page_range(Pgoff(pgoff), pages);
        for (pgoff, pages) in [(3, 1), (0, 4), (2, 2), (0, u64::MAX), (u64::MAX, 1)] {
            assert_eq!(zero(pgoff, pages), Err(ERANGE));
        }
        assert!(s.ram.is(0, RAM_SIZE, 0x11));
        zero(1, 2)?;
        assert!(s.ram.is(0, DATA + 4096, 0x11) && s.ram.is(DATA + 4096, RAM_SIZE, 0));
        Ok(())
    }

    #[test]
    fn recovery_writes_go_where_there_is_no_poison() -> Result {
        let s = Setup::new()?;
        assert_eq!(s.recover(1, DATA + 4096 + 100, 50, 50)?, 50);
        let at = DATA + 4196;
        assert!(s.ram.is(0, at, 0x11) && s.ram.is(at, at + 50, 0x22));
        assert!(s.ram.is(at + 50, RAM_SIZE, 0x11));
        // The source has less.
        assert_eq!(s.recover(0, DATA, 4096, 10)?, 10);
        Ok(())
    }

    #[test]
    fn recovery_writes_stay_inside() -> Result {
        let s = Setup::new()?;
        for (pgoff, offset, bytes) in [
            (3, RAM_SIZE, 1),
            (2, DATA + 8192, 4097),
            (2, DATA + 8192 + 4000, 97),
            (0, DATA, RAM_SIZE),
            (0, DATA, usize::MAX),
            (u64::MAX, DATA, 1),
        ] {
            assert_eq!(s.recover(pgoff, offset, bytes, RAM_SIZE)?, 0);
        }
        assert!(s.ram.is(0, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn whole_poisoned_pages_are_recovered() -> Result {
        let s = Setup::bad(9, 1)?;
        assert_eq!(s.recover(1, DATA + 4096, 4096, 4096)?, 4096);
        assert!(s.pmem.badblocks().is_empty());
        assert!(s.ram.is(DATA, DATA + 4096, 0x11));
        assert!(s.ram.is(DATA + 4096, DATA + 8192, 0x22));
        assert!(s.ram.is(DATA + 8192, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn parts_of_poisoned_pages_are_not() -> Result {
        let s = Setup::bad(9, 1)?;
        assert_eq!(s.recover(1, DATA + 4096 + 512, 512, 512)?, 0);
        assert_eq!(s.recover(1, DATA + 4096, 512, 512)?, 0);
        assert_eq!(s.recover(1, DATA + 4096 + 1, 4095, 4095)?, 0);
        assert_eq!(s.pmem.badblocks().first_bad(0, SECTORS), Some(9));
        assert!(s.ram.is(0, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn poison_that_stays_is_not_written_to() -> Result {
        let s = Setup::bad(9, 1)?;
        s.bus.set_clear_limit(2048);
        assert_eq!(s.recover(1, DATA + 4096, 4096, 4096)?, 0);
        assert!(!s.pmem.badblocks().is_empty());
        assert!(s.ram.is(0, RAM_SIZE, 0x11));
        Ok(())
    }
}

#[kernel::macros::kunit_tests(rpmem_bound)]
mod bound {
    use super::*;
    use crate::abstractions::kunit::{
        transfer,
        Trace,
        FUA,
        PREFLUSH,
        READ,
        WRITE, //
    };

    #[test]
    fn bios_reach_the_memory() -> Result {
        let (_bus, ram, bound) = Setup::new()?.bind()?;
        let memory = Ram::new(0x22)?;
        transfer(&bound.disk, 8, &memory, 0, 4096, WRITE)?;
        assert!(ram.is(DATA + 4096, DATA + 8192, 0x22));
        assert!(ram.is(0, DATA + 4096, 0x11) && ram.is(DATA + 8192, RAM_SIZE, 0x11));
        transfer(&bound.disk, 7, &memory, 8192, 1024, READ)?;
        assert!(memory.is(8192, 8704, 0x11) && memory.is(8704, 9216, 0x22));
        Ok(())
    }

    #[test]
    fn bios_meet_bad_sectors() -> Result {
        let (bus, _ram, bound) = Setup::bad(9, 1)?.bind()?;
        let memory = Ram::new(0x22)?;
        let io = |sector, len, op| transfer(&bound.disk, sector, &memory, 0, len, op);
        assert_eq!(io(9, 512, READ), Err(EIO));
        assert_eq!(io(8, 512, READ), Ok(()));
        bus.set_clear_limit(0);
        assert_eq!(io(8, 4096, WRITE), Err(EIO));
        bus.set_clear_limit(u64::MAX);
        assert_eq!(io(8, 4096, WRITE), Ok(()));
        assert_eq!(io(9, 512, READ), Ok(()));
        Ok(())
    }

    #[test]
    fn flushes_come_when_asked_for() -> Result {
        let (bus, ram, bound) = Setup::new()?.bind()?;
        let memory = Ram::new(0x22)?;
        let write = |flags| {
            let before = bus.flushes();
            let result = transfer(&bound.disk, 0, &memory, 0, 512, WRITE | flags);
            (result, bus.flushes() - before)
        };
        assert_eq!(write(0), (Ok(()), 0));
        assert_eq!(write(FUA), (Ok(()), 1));
        assert_eq!(write(PREFLUSH), (Ok(()), 1));
        assert_eq!(write(PREFLUSH | FUA), (Ok(()), 2));
        bus.set_flush_result(EIO.to_errno());
        assert_eq!(write(FUA), (Err(EIO), 1));
        // Nothing is written when what was before is not durable.
        let other = Ram::new(0x33)?;
        let result = transfer(&bound.disk, 8, &other, 0, 512, WRITE | PREFLUSH);
        assert_eq!(result, Err(EIO));
        assert!(ram.is(DATA + 4096, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn teardown_runs_in_its_order() -> Result {
        let (_bus, _ram, bound) = Setup::new()?.bind()?;
        let (trace, ()) = Trace::of(|| drop(bound))?;
        assert!(trace.is(&[
            // File systems lose the DAX device, after those have been waited for who look it up,
            c"dax_remove_host",
            c"kill_dax",
            c"put_dax",
            c"kill_dax",
            // the disk goes when its I/O has ended,
            c"del_gendisk",
            c"put_disk",
            // and with it the last user of the device,
            c"kill_dax",
            c"put_dax",
            // then what needs the region,
            c"badblocks_exit",
            // and the memory, as nobody uses it: the claim is last.
            c"memunmap",
            c"__release_region",
        ]));
        Ok(())
    }

    #[test]
    fn memory_has_gone_when_it_is_unbound() -> Result {
        let setup = Setup::new()?;
        let pmem = setup.pmem.clone();
        let (_bus, _ram, bound) = setup.bind()?;
        drop(bound);
        assert!(Arc::into_unique_or_drop(pmem).is_some());
        Ok(())
    }

    #[test]
    fn a_failed_attach_is_undone_in_the_same_order() -> Result {
        let Setup {
            pmem,
            bus,
            ram: _ram,
        } = Setup::new()?;
        let dax = Arc::new(dax::Device::new(pmem.clone())?, GFP_KERNEL)?;
        let disk: NewDisk<DaxDevice> =
            NewDisk::new(bus.child().core(), &TestDisk::LIMITS, SECTORS, dax.clone())?;
        let host = dax::Host::new(dax, &disk)?;
        let (trace, ()) = Trace::of(|| {
            drop(host);
            drop(disk);
        })?;
        assert!(trace.is(&[
            c"dax_remove_host",
            c"kill_dax",
            c"put_dax",
            c"kill_dax",
            c"put_disk",
            c"kill_dax",
            c"put_dax",
        ]));
        // Nobody else has the memory any more.
        assert!(Arc::into_unique_or_drop(pmem).is_some());
        Ok(())
    }
}

/// Mappings of the node, and the page tables that come of them.
#[kernel::macros::kunit_tests(rpmem_map)]
mod map {
    use super::*;
    use crate::{
        abstractions::{
            compat,
            kunit::{
                Entry,
                UserMapping, //
            },
            vma::PMD_ORDER, //
        },
        driver::map::{
            BoundNode,
            Node, //
        },
        logic::{
            geometry::PAGE_SIZE,
            mmap::{
                DIRECT_WINDOW,
                MAP_SHARED,
                MAP_SHARED_VALIDATE,
                MAP_SYNC, //
            }, //
        }, //
    };
    use kernel::str::CString;

    const SYNC: u64 = MAP_SHARED_VALIDATE | MAP_SYNC;
    const PAGE: usize = PAGE_SIZE as usize;
    const HUGE: usize = PAGE << PMD_ORDER;
    /// The namespace that the scenario has.
    const NODE: &CStr = c"/dev/rpmem0";

    /// The entry for the page at `at` is as it has to be, for the page `page` of the device.
    fn check(map: &UserMapping, at: usize, page: u64, order: u32, writable: bool) -> Result {
        let entry = map.entry(at).ok_or(ENOENT)?;
        let frame = map.data::<Node>().frame(page & !((1 << order) - 1))?;
        let want = Entry {
            pfn: frame,
            order,
            special: true,
            writable,
            write_back: true,
        };
        if entry != want {
            pr_err!("{:?}, must be {:?}\n", entry, want);
            return Err(EINVAL);
        }
        Ok(())
    }

    #[test]
    fn huge_entries_are_special_and_of_the_right_frames() -> Result {
        for window in [0, DIRECT_WINDOW] {
            let map = UserMapping::new(NODE, 4 * HUGE, SYNC, window + HUGE as u64)?;
            for (n, write) in [(0, false), (1, true), (3, false)] {
                assert!(map.entry(n * HUGE).is_none());
                map.touch(n * HUGE + 5000, write)?;
                // Read or written: it is synchronous, so nothing is tracked.
                let first = (n as u64 + 1) << PMD_ORDER;
                if compat::PMD_WITHOUT_PAGES {
                    check(&map, n * HUGE, first, PMD_ORDER, true)?;
                } else {
                    check(&map, n * HUGE + PAGE, first + 1, 0, true)?;
                }
            }
            assert!(map.entry(2 * HUGE).is_none());
        }
        Ok(())
    }

    #[test]
    fn small_entries_are_special_and_of_the_right_frames() -> Result {
        for (flags, window) in [(SYNC, 0), (SYNC, DIRECT_WINDOW), (MAP_SHARED, 0)] {
            // Ends in front of the next huge page.
            let map = UserMapping::new(NODE, HUGE - PAGE, flags, window + PAGE as u64)?;
            map.touch(100 * PAGE, false)?;
            // With it come others, all in one block.
            let mut found = 0;
            for n in 0..511 {
                if map.entry(n * PAGE).is_some() {
                    check(&map, n * PAGE, n as u64 + 1, 0, flags == SYNC)?;
                    found += 1;
                }
            }
            assert_eq!(found, 64);
        }
        Ok(())
    }

    #[test]
    fn tracked_entries_become_writable_beside_each_other() -> Result {
        let map = UserMapping::new(NODE, HUGE, MAP_SHARED, 0)?;
        let writable = |n: usize| map.entry(n * PAGE).is_some_and(|entry| entry.writable);
        map.touch(0, false)?;
        assert!(map.entry(0).is_some());
        for n in [3, 300, 4] {
            assert!(!writable(n));
            map.touch(n * PAGE, true)?;
        }
        // The last one has brought another one.
        for n in [3, 4, 5, 300] {
            check(&map, n * PAGE, n as u64, 0, true)?;
        }
        for n in [0, 2, 6, 299, 301] {
            assert!(!writable(n));
        }
        Ok(())
    }

    /// A bound namespace of three pages with a node, and the path of that; in the order of `bind()`.
    fn bound() -> Result<(TestBus, Ram, Arc<Pmem>, Bound, CString)> {
        let setup = Setup::new()?;
        let pmem = setup.pmem.clone();
        let (bus, ram, mut bound) = setup.bind()?;
        let data = Arc::new(dax::Device::new(pmem.clone())?, GFP_KERNEL)?;
        let node = BoundNode::new(bus.child().core(), &bound.disk, data, true)?;
        bound.node = Some(node);
        let path = CString::try_from_fmt(fmt!("/dev/r{}", bound.disk.name()?))?;
        Ok((bus, ram, pmem, bound, path))
    }

    #[test]
    fn a_bad_page_is_refused_until_it_is_written() -> Result {
        use crate::abstractions::kunit::with_segment;
        let (_bus, ram, pmem, bound, path) = bound()?;
        let map = UserMapping::new(&path, 3 * PAGE, SYNC, 0)?;
        for n in 0..3 {
            map.touch(n * PAGE, true)?;
            assert!(ram.is(DATA + n * PAGE, DATA + n * PAGE + 1, 0x5a));
        }
        if let Some(node) = &bound.node {
            node.change_badblocks(|| assert!(pmem.badblocks().mark(9, 1)));
        }
        assert!(map.entry(PAGE).is_none());
        assert_eq!(map.touch(PAGE + 5, false), Err(EFAULT));
        assert_eq!(map.touch(PAGE + 5, true), Err(EFAULT));
        map.touch(0, true)?;
        map.touch(2 * PAGE, true)?;
        // A write through the disk clears it, and the mapping is as good as new.
        let memory = Ram::new(0x33)?;
        with_segment(&memory, 0, PAGE, |from| pmem.write(DATA + PAGE, from))?;
        map.touch(PAGE + 5, false)?;
        check(&map, PAGE, 1, 0, true)?;
        assert!(ram.is(DATA + PAGE, DATA + 2 * PAGE, 0x33));
        Ok(())
    }

    #[test]
    fn an_unbound_namespace_leaves_no_entry() -> Result {
        for flags in [MAP_SHARED, SYNC] {
            let (_bus, ram, pmem, bound, path) = bound()?;
            let map = UserMapping::new(&path, 3 * PAGE, flags, 0)?;
            for n in 0..3 {
                map.touch(n * PAGE, true)?;
            }
            drop(bound);
            for n in 0..3 {
                assert!(map.entry(n * PAGE).is_none());
                assert_eq!(map.touch(n * PAGE, n == 1), Err(EFAULT));
            }
            assert!(ram.is(DATA + 1, DATA + PAGE, 0x11));
            // The mapping does not keep the memory.
            assert!(Arc::into_unique_or_drop(pmem).is_some());
            assert!(map.data::<Node>().frame(0).is_err());
        }
        Ok(())
    }
}
