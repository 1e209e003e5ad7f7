// SPDX-License-Identifier: GPL-2.0

//! How finely stores are tracked: the policy against a model of page tables and of msync, with stores in any
//! order, and with those that are worst for it.

mod common;

use proptest::prelude::*;
use rpmem_host_tests::{
    check::{grant, victim},
    logic::{
        fault::Run,
        geometry::Pfn,
        tracking::{Grant, Place, HEAD_START, PAGE_COST, TABLES, UNIT, UNIT_COST},
    },
};

const UNITS: usize = 4;
const PAGES: usize = UNITS * UNIT as usize;

#[derive(Clone, Copy, Debug)]
enum Step {
    Store(usize),
    /// Of all, or of some pages.
    Msync(usize, usize),
    /// The unit gives up its page table.
    Evict(usize),
}

/// One mapping of some units, as the driver has it.
struct Model {
    writable: [bool; PAGES],
    dirty: [bool; PAGES],
    marked: [bool; PAGES],
    dense: [bool; UNITS],
    /// What has been stored and is not written back.
    stored: [bool; PAGES],
    table: [bool; UNITS],
    /// What msync costs: as it is, and if each unit had the better of the two.
    cost: u64,
    best: u64,
    faults: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            writable: [false; PAGES],
            dirty: [false; PAGES],
            marked: [false; PAGES],
            dense: [false; UNITS],
            stored: [false; PAGES],
            table: [false; UNITS],
            cost: 0,
            best: 0,
            faults: 0,
        }
    }

    fn pages(unit: usize) -> std::ops::Range<usize> {
        unit * UNIT as usize..(unit + 1) * UNIT as usize
    }

    fn store(&mut self, page: usize) {
        if !self.writable[page] {
            self.fault(page);
        }
        assert!(self.writable[page], "the store goes on");
        assert!(
            self.marked[page] || self.dense[page / UNIT as usize],
            "page {page}"
        );
        self.dirty[page] = true;
        self.stored[page] = true;
    }

    fn fault(&mut self, page: usize) {
        let unit = page / UNIT as usize;
        let all = Self::pages(unit);
        self.faults += 1;
        if self.dense[unit] {
            all.for_each(|page| self.writable[page] = true);
            return;
        }
        let mut head_start = false;
        if !self.table[unit] {
            self.table[unit] = true;
            // As `victim()` says of the neighbours.
            let beside = [unit.checked_sub(1), Some(unit + 1).filter(|n| *n < UNITS)];
            let from = beside
                .into_iter()
                .flatten()
                .find(|n| self.table[*n] && self.dense[*n]);
            if let Some(from) = from {
                head_start = from < unit;
                self.evict(from);
            }
        }
        let marked = all.clone().filter(|page| self.marked[*page]);
        let dirty = marked.clone().filter(|page| self.dirty[*page]).count() as u64;
        let place = Place {
            pages: all.start as u64..all.end as u64,
            marked: marked.count() as u64,
            dirty,
            head_start,
        };
        match grant(&place, page as u64, &|page| self.marked[page as usize]) {
            Grant::Unit => {
                self.dense[unit] = true;
                all.for_each(|page| self.writable[page] = true);
            }
            Grant::Pages(pages) => {
                for page in pages {
                    self.marked[page as usize] = true;
                    self.writable[page as usize] = true;
                }
            }
        }
    }

    fn unmap(&mut self, page: usize) {
        self.writable[page] = false;
        self.dirty[page] = false;
    }

    fn evict(&mut self, unit: usize) {
        self.table[unit] = false;
        Self::pages(unit).for_each(|page| self.unmap(page));
    }

    fn msync(&mut self, pages: std::ops::Range<usize>) {
        self.check();
        for unit in 0..UNITS {
            let mut range =
                pages.start.max(Self::pages(unit).start)..pages.end.min(Self::pages(unit).end);
            if range.is_empty() {
                continue;
            }
            // The choice is for a unit; what is written back with it needs no other time.
            if self.dense[unit] {
                range = Self::pages(unit);
                self.dense[unit] = false;
                self.cost += UNIT_COST;
            } else {
                self.cost += range.clone().filter(|p| self.marked[*p]).count() as u64 * PAGE_COST;
            }
            let stored = range.clone().filter(|p| self.stored[*p]).count() as u64;
            self.best += (stored * PAGE_COST).min(UNIT_COST);
            for page in range {
                self.marked[page] = false;
                self.stored[page] = false;
                self.unmap(page);
            }
        }
        self.check();
    }

    /// Never a store without a mark, nor an entry that could be stored to.
    fn check(&self) {
        for page in 0..PAGES {
            let has_mark = self.marked[page] || self.dense[page / UNIT as usize];
            assert!(
                has_mark || !self.stored[page] && !self.writable[page],
                "page {page}"
            );
        }
    }

    fn run(steps: &[Step]) -> Self {
        let mut model = Self::new();
        for step in steps {
            match *step {
                Step::Store(page) => model.store(page),
                Step::Msync(start, end) => model.msync(start..end),
                Step::Evict(unit) => {
                    model.check();
                    model.evict(unit);
                }
            }
        }
        model.msync(0..PAGES);
        model
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = 0..PAGES;
    let run =
        (page.clone(), 1usize..400, 1usize..4, any::<bool>()).prop_map(|(start, len, by, down)| {
            let pages = (start..PAGES).step_by(by).take(len).map(Step::Store);
            let mut pages: Vec<_> = pages.collect();
            if down {
                pages.reverse();
            }
            pages
        });
    let some = prop_oneof![
        3 => page.clone().prop_map(|page| vec![Step::Store(page)]),
        3 => run,
        1 => Just(vec![Step::Msync(0, PAGES)]),
        1 => (page, 1usize..700).prop_map(|(start, len)| vec![Step::Msync(start, (start + len).min(PAGES))]),
        1 => (0..UNITS).prop_map(|unit| vec![Step::Evict(unit)]),
    ];
    proptest::collection::vec(some, 1..40).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..common::config() })]

    #[test]
    fn msync_costs_at_most_twice_the_best(steps in steps()) {
        let model = Model::run(&steps);
        prop_assert!(model.cost <= 2 * model.best, "{} of {}", model.cost, model.best);
    }

    #[test]
    fn page_tables_are_bounded(places in proptest::collection::vec((0u32..512, any::<u32>()), 1..600)) {
        let mut tables = [false; 512];
        for (at, turn) in places {
            // As rpmem_helper_tables_near() does.
            let block = at / 32 * 32;
            let first = block.saturating_sub(16);
            if tables[at as usize] {
                continue;
            }
            let near = (0..64).filter(|n| tables.get((first + n) as usize) == Some(&true));
            let near = near.fold(0u64, |all, n| all | (1 << n));
            if let Some((from, _)) = victim(near, at - first, block - first, turn, &|_| false) {
                tables[(first + from) as usize] = false;
            }
            tables[at as usize] = true;
            for block in tables.chunks(32) {
                prop_assert!(block.iter().filter(|table| **table).count() <= TABLES as usize);
            }
        }
    }
}

/// Who knows the policy stores as little as makes it mark most.
#[test]
fn the_worst_traces() {
    let mut worst = (0, 1);
    let mut try_one = |steps: &[Step]| {
        let model = Model::run(steps);
        assert!(
            model.cost <= 2 * model.best,
            "{} of {}",
            model.cost,
            model.best
        );
        if model.cost * worst.1 > worst.0 * model.best {
            worst = (model.cost, model.best);
        }
    };
    for stored in 1..=UNIT as usize {
        for stride in [1, 2, 3, 7, 64, 255] {
            // In this order, as far as they go, in one unit and into the next.
            let pages: Vec<_> = (0..stored)
                .map(|n| n * stride % UNIT as usize)
                .map(Step::Store)
                .collect();
            try_one(&pages);
            let mut more = pages.clone();
            more.push(Step::Store(UNIT as usize));
            try_one(&more);
            more.push(Step::Store(UNIT as usize + 2 * HEAD_START as usize));
            try_one(&more);
        }
        // Only where the last window has ended.
        let mut model = Model::new();
        let mut steps = Vec::new();
        for _ in 0..stored {
            let next = (0..UNIT as usize).find(|page| !model.writable[*page]);
            let Some(next) = next else { break };
            model.store(next);
            steps.push(Step::Store(next));
        }
        try_one(&steps);
    }
    println!(
        "at worst {:.3} of the best",
        worst.0 as f64 / worst.1 as f64
    );
    assert!(worst.0 * 2 > worst.1 * 3, "the worst traces are bad ones");
}

#[test]
fn stores_in_order_take_few_faults() {
    let steps: Vec<_> = (0..PAGES).map(Step::Store).collect();
    let model = Model::run(&steps);
    assert_eq!(model.faults, 9 + 5 * (UNITS as u64 - 1));
    assert_eq!(model.cost, UNITS as u64 * UNIT_COST);
}

#[test]
fn a_dense_neighbour_gives_its_table() {
    let near = 0b0111_0101_u64;
    for at in [1, 3, 7] {
        for dense in 0..8 {
            let want = (at == dense + 1 || at + 1 == dense) && (near >> dense) & 1 == 1;
            let got = victim(near, at, 0, 0, &|n| n == dense);
            assert_eq!(
                got,
                want.then_some((dense, dense < at)),
                "{at} beside {dense}"
            );
        }
    }
    // The one before is the first choice.
    assert_eq!(victim(0b101, 1, 0, 0, &|_| true), Some((0, true)));
    assert_eq!(victim(0, 0, 0, 0, &|_| true), None);
}

#[test]
fn a_run_is_cut_from_what_is_around_a_page() {
    let one = Run {
        address: 0x7000,
        page: 7,
        pfn: Pfn(1007),
        pages: 1,
    };
    let want = Run {
        address: 0x5000,
        page: 5,
        pfn: Pfn(1005),
        pages: 6,
    };
    assert_eq!(one.cut(&(5..11)), want);
    assert_eq!(one.cut(&(7..8)), one);
}
