// SPDX-License-Identifier: GPL-2.0

//! The logic behind the character device: faults, flags and offsets of mmap(2), write-back, ioctls.

mod common;

use proptest::prelude::*;
use rpmem_host_tests::{
    check,
    logic::{
        fault::{Area, PfnRange},
        geometry::{Pfn, PAGE_SIZE},
        ioctl::{self, ArgumentError, Info, Prefault},
        lease::{Left, Reason, Status},
        mmap::{self, Class, Device, Refusal, DIRECT_WINDOW},
    },
    uapi,
};

const HUGE: u64 = 512;
const GIGANTIC: u64 = HUGE * HUGE;

#[test]
fn all_small_faults() {
    for start in 0..5 {
        for len in 1..10 {
            for first in [0, 1, 3, 8] {
                for pfn in 0..4 {
                    for pages in 0..14 {
                        let area = Area {
                            start: start * PAGE_SIZE,
                            end: (start + len) * PAGE_SIZE,
                            first,
                        };
                        let memory = PfnRange {
                            pfn: Pfn(pfn),
                            pages,
                        };
                        for at in 0..16 {
                            for order in 0..4 {
                                for bad in [u64::MAX, 0, 2, 7] {
                                    let address = at * PAGE_SIZE;
                                    check::fault(area, memory, address, order, &|p| p == bad);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn faults_of_any_place() {
    let numbers = [
        0,
        1,
        511,
        512,
        GIGANTIC - 1,
        GIGANTIC,
        u64::MAX >> 13,
        u64::MAX >> 12,
    ];
    for start in numbers {
        for len in [1, HUGE, HUGE + 1, 2 * GIGANTIC] {
            let Some(end) = start.checked_add(len).filter(|n| *n <= u64::MAX >> 12) else {
                continue;
            };
            for first in [0, 1, HUGE, GIGANTIC, u64::MAX - 1] {
                for pfn in [0, 1, HUGE, GIGANTIC, 1 << 40] {
                    let area = Area {
                        start: start << 12,
                        end: end << 12,
                        first,
                    };
                    let memory = PfnRange {
                        pfn: Pfn(pfn),
                        pages: 3 * GIGANTIC,
                    };
                    for at in [
                        start,
                        start.saturating_sub(1),
                        end,
                        end - 1,
                        (start + end) / 2,
                    ] {
                        for order in [0, 1, 9, 18, 51, 52, 63, 64, u32::MAX] {
                            if order < 19 {
                                check::fault(area, memory, at << 12, order, &|p| p == GIGANTIC + 5);
                            } else {
                                // Larger than anything: never an entry.
                                use rpmem_host_tests::logic::fault::{plan, Plan};
                                let got = plan(&area, &memory, at << 12, order, |_, _| false);
                                assert_eq!(got, Plan::Fallback);
                            }
                        }
                    }
                }
            }
        }
    }
}

const SYNC: u64 = mmap::MAP_SYNC;
const DIRECT: u64 = mmap::MAP_DIRECT;

/// Section 4 of the contract, row by row.
#[test]
fn flags_are_as_the_table_says() {
    for more in [0, 0x10, 0x2000, 0x8000, 0x10_0000, 1 << 40] {
        for strict in [false, true] {
            let check = |flags| mmap::check_flags(flags | more, strict);
            for new in [0, SYNC, DIRECT, SYNC | DIRECT] {
                // MAP_PRIVATE, MAP_DROPPABLE and what else there may be.
                for kind in [0, 2, 4, 8, 15] {
                    assert_eq!(check(kind | new), Err(Refusal::Private));
                }
                let shared = if new == 0 {
                    Ok(())
                } else {
                    Err(Refusal::NotValidated)
                };
                assert_eq!(check(mmap::MAP_SHARED | new), shared);
                let validate = if new == 0 && strict {
                    Err(Refusal::NothingToValidate)
                } else {
                    Ok(())
                };
                assert_eq!(check(mmap::MAP_SHARED_VALIDATE | new), validate);
            }
        }
    }
}

#[test]
fn classes_follow_from_window_and_flag() {
    for synchronous in [false, true] {
        let device = Device {
            pages: 10,
            synchronous,
        };
        let window = DIRECT_WINDOW / PAGE_SIZE;
        let plain = mmap::locate(&device, 2, 3).unwrap();
        let direct = mmap::locate(&device, window + 2, 3).unwrap();
        assert_eq!((plain.first, direct.first), (2, 2));
        assert_eq!(mmap::class(&device, &plain, false), Ok(Class::Plain));
        let refused = Err(Refusal::NotSynchronous);
        let sync = if synchronous {
            Ok(Class::Sync)
        } else {
            refused
        };
        assert_eq!(mmap::class(&device, &plain, true), sync);
        assert_eq!(mmap::class(&device, &direct, false), Ok(Class::Direct));
        let both = if synchronous {
            Ok(Class::Direct)
        } else {
            refused
        };
        assert_eq!(mmap::class(&device, &direct, true), both);
    }
}

/// MAP_DIRECT at an offset of either window is on the same pages as that offset, in the direct
/// window; elsewhere it is nowhere, as without.
#[test]
fn the_flag_means_the_window() {
    let window = DIRECT_WINDOW / PAGE_SIZE;
    let device = Device {
        pages: 10,
        synchronous: true,
    };
    for pages in 0..12 {
        for at in 0..12 {
            for pgoff in [at, window + at] {
                let moved = mmap::locate(&device, mmap::direct(pgoff), pages);
                let stays = mmap::locate(&device, pgoff, pages);
                assert_eq!(
                    moved,
                    stays.map(|extent| mmap::Extent {
                        direct: true,
                        ..extent
                    })
                );
            }
            for pgoff in [window - 1 - at, 2 * window + at, u64::MAX - at] {
                let moved = mmap::locate(&device, mmap::direct(pgoff), pages);
                assert_eq!(moved, Err(Refusal::OutOfRange), "{pgoff:#x}");
            }
        }
    }
}

#[test]
fn every_refusal_says_why() {
    let all = [
        Refusal::Private,
        Refusal::NotValidated,
        Refusal::NothingToValidate,
        Refusal::NotSynchronous,
        Refusal::OutOfRange,
    ];
    for (i, refusal) in all.iter().enumerate() {
        assert!(refusal.reason().len() > 20);
        assert!(all[..i]
            .iter()
            .all(|other| other.reason() != refusal.reason()));
    }
}

#[test]
fn all_small_ranges() {
    let window = DIRECT_WINDOW / PAGE_SIZE;
    for pages in 0..5 {
        let device = Device {
            pages,
            synchronous: true,
        };
        for base in [0, window, 2 * window, u64::MAX - 4] {
            for before in 0..4u64 {
                for len in 0..6 {
                    check::located(device, base.saturating_add(before), len);
                    check::located(device, base.saturating_sub(before), len);
                }
            }
        }
        for base in [0, DIRECT_WINDOW] {
            for first in 0..6 {
                for last in 0..6 {
                    for (a, b) in [(0, 0), (0, 4095), (1, 4094)] {
                        let (first, last) = (first * PAGE_SIZE + a, last * PAGE_SIZE + b);
                        check::write_back(device, base + first, base + last);
                    }
                }
                check::write_back(device, first, i64::MAX as u64);
                check::write_back(device, first, u64::MAX);
            }
        }
    }
}

#[test]
fn bits_of_small_sets() {
    for pattern in 0..1u64 << 12 {
        // Around the border of two words.
        let words = [pattern << 58, (pattern >> 6) | (pattern << 60)];
        check::bits(&words, 60..60 + pattern % 9);
    }
    check::bits(&[], 0..0);
    check::bits(&[u64::MAX; 3], 0..192);
    // Ranges over several words, with a hole at each place.
    for hole in 0..256 {
        let mut words = [u64::MAX; 4];
        words[hole / 64] &= !(1 << (hole % 64));
        for (start, end) in [
            (0, 256),
            (1, 255),
            (63, 193),
            (64, 192),
            (65, 130),
            (70, 71),
        ] {
            check::bits(&words, start..end);
        }
    }
    check::bits(&[0; 3], 5..5);
    check::bits(&[1, 0, 1 << 63], 63..129);
}

/// The numbers of the header that applications use.
#[test]
fn ioctls_are_those_of_the_header() {
    let c = uapi::header();
    assert_eq!((ioctl::INFO, ioctl::PREFAULT), (c.info, c.prefault));
    assert_eq!(
        (ioctl::INFO_SIZE, ioctl::PREFAULT_SIZE),
        (c.info_size, c.prefault_size)
    );
    assert_eq!(
        (ioctl::INFO_SYNC, ioctl::INFO_PAGES, ioctl::INFO_PINNABLE),
        (c.info_sync, c.info_pages, c.info_pinnable)
    );
    assert_eq!((ioctl::LEASE, ioctl::LEASE_SIZE), (c.lease, c.lease_size));
    let states = [
        ioctl::LEASE_HELD,
        ioctl::LEASE_REMOVE,
        ioctl::LEASE_READ_ONLY,
        ioctl::LEASE_BROKEN,
    ];
    assert_eq!(states, c.lease_states);
    for (state, status) in [
        Status::Held,
        Status::Breaking(Reason::Remove),
        Status::Breaking(Reason::ReadOnly),
        Status::Broken,
    ]
    .into_iter()
    .enumerate()
    {
        for (left, ms) in [
            (Left::Forever, -1),
            (Left::Ms(0), 0),
            (Left::Ms(45_000), 45_000),
            (Left::Ms(u64::MAX), i64::MAX),
        ] {
            let lease = ioctl::Lease {
                status,
                breaks: 7,
                holders: 0x1122_3344_5566_7788,
                left,
            };
            let breaking = matches!(status, Status::Breaking(_));
            let ms = if breaking { ms } else { 0 };
            assert_eq!(
                lease.to_bytes(),
                uapi::lease(c.lease_states[state], 7, ms, lease.holders)
            );
        }
    }
    assert_eq!(ioctl::PREFAULT_WRITE, c.prefault_write);
    assert_eq!(ioctl::PREFAULT_DONE, c.prefault_done);
    assert_eq!(
        (DIRECT_WINDOW, mmap::MAP_DIRECT),
        (c.direct_window, c.map_direct)
    );
    assert_eq!(
        (mmap::MAP_SYNC, mmap::MAP_SHARED_VALIDATE),
        (c.map_sync, c.map_shared_validate)
    );
    assert_eq!(
        (mmap::MAP_TYPE, mmap::MAP_SHARED),
        (c.map_type, c.map_shared)
    );

    for n in 0..8 {
        let info = Info {
            size: 0x1122_3344_5566_7788 + n,
            huge_page: 1 << (12 + 9 * (n % 4)),
            synchronous: n & 1 != 0,
            page_backed: n & 2 != 0,
            pinnable: n & 4 != 0,
        };
        let flags = [c.info_sync, c.info_pages, c.info_pinnable]
            .into_iter()
            .enumerate()
            .map(|(bit, flag)| if (n >> bit) & 1 != 0 { flag } else { 0 })
            .sum();
        assert_eq!(
            info.to_bytes(),
            uapi::info(flags, info.size, info.huge_page)
        );
    }
    for flags in [0, c.prefault_write] {
        let parsed = Prefault::parse(&uapi::prefault(32, flags, 0x1_2345_6000, 0x7000), PAGE_SIZE);
        let want = Prefault {
            start: 0x1_2345_6000,
            end: 0x1_2345_d000,
            write: flags != 0,
        };
        assert_eq!(parsed, Ok(want));
    }
}

#[test]
fn bad_arguments_are_refused() {
    let parse = |argsz, flags, addr, len| {
        Prefault::parse(&uapi::prefault(argsz, flags, addr, len), PAGE_SIZE).err()
    };
    assert_eq!(parse(32, 0, 0, 0), None);
    assert_eq!(parse(u32::MAX, 1, 4096, 4096), None);
    assert_eq!(parse(31, 0, 0, 0), Some(ArgumentError::Short));
    assert_eq!(parse(0, 0, 0, 0), Some(ArgumentError::Short));
    for bit in 1..32 {
        assert_eq!(parse(32, 1 << bit, 0, 0), Some(ArgumentError::UnknownFlag));
    }
    for (addr, len) in [
        (1, 4096),
        (4096, 1),
        (4095, 4097),
        (u64::MAX - 4095, 4096),
        (4096, u64::MAX - 4095),
    ] {
        assert_eq!(parse(32, 0, addr, len), Some(ArgumentError::Range));
    }
    assert_eq!(parse(32, 0, u64::MAX - 8191, 4096), None);
}

proptest! {
    #![proptest_config(common::config())]

    #[test]
    fn faults_in_mappings_of_any_shape(
        start in 0..1u64 << 36, len in 1..3 * GIGANTIC, first in 0..GIGANTIC,
        pfn in 0..1u64 << 40, pages in 1..4 * GIGANTIC, at in any::<u64>(),
        order in prop::sample::select(vec![0u32, 9]), bad in 0..4 * GIGANTIC,
    ) {
        let area = Area { start: start << 12, end: (start + len) << 12, first };
        let memory = PfnRange { pfn: Pfn(pfn), pages };
        // Mostly inside, at times around.
        let address = (start + at % (len + 3)).saturating_sub(1) << 12;
        check::fault(area, memory, address, order, &|page| page == bad);
    }

    #[test]
    fn requests_of_any_size(pages in any::<u64>(), shift in 0..64u32, pgoff in any::<u64>(), len in any::<u64>(), cut in 0..64u32) {
        let device = Device { pages: pages >> shift, synchronous: true };
        check::located(device, pgoff >> cut, len >> shift);
        check::located(device, (DIRECT_WINDOW >> 12) + (pgoff >> cut >> 12), len >> shift);
        check::write_back(device, pgoff >> cut, len);
        check::write_back(device, len >> cut, pgoff);
    }

    #[test]
    fn sets_of_any_bits(words in prop::collection::vec(any::<u64>(), 0..6), start in 0..400u64, len in 0..400u64, thin in any::<bool>()) {
        let words: Vec<u64> = words.into_iter().map(|w| if thin { w & (w >> 1) & (w << 2) } else { w | (w >> 1) }).collect();
        check::bits(&words, start..start + len);
    }
}
