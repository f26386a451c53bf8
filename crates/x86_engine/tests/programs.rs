//! Programs of many blocks in several pages, with page faults, interrupts, changing code and page tables, rings, address
//! spaces and a second processor: every kind of engine runs them to the same state wherever it is stopped.

use proptest::prelude::*;
use x86_engine::fuzz::{Told, play};
use x86_engine::side_by_side::SideBySide;

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_of_engine_runs_a_program_alike(
        bytes in prop::collection::vec(any::<u8>(), 1..3000),
    ) {
        play(&bytes).map_err(TestCaseError::fail)?;
    }
}

/// Bytes that look random, by number; `PROGRAMS` in the environment asks for more of them.
fn program(number: u64) -> Vec<u8> {
    let mut state = number;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    (0..2500).map(|_| byte()).collect()
}

#[test]
fn programs_run_alike_and_meet_what_they_are_for() {
    let count = std::env::var("PROGRAMS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(40);
    let mut all = Told::default();
    for number in 0..count {
        match play(&program(number)) {
            Ok(told) => all.add(told),
            Err(difference) => panic!("program {number}: {difference}"),
        }
    }
    println!("{count} programs: {all:?}");
    assert!(all.retired > 3000 * count, "{all:?}");
    assert!(all.faults > 20 * count, "{all:?}");
    assert!(all.interrupts > 10 * count, "{all:?}");
    assert!(all.violations > count / 2, "{all:?}");
    if SideBySide::new().translates() {
        assert!(all.translated > all.retired / 3, "{all:?}");
    }
}
