//! PAUSE exiting and PAUSE-loop exiting (SDM volume 3, 26.1.3).

use super::{CODE, guest};
use x86_arch::ExitReason;
use x86_engine::Stop;
use x86_engine::side_by_side::SideBySide;

const SECONDARY: u32 = 1 << 31;
const PAUSE_LOOP: u32 = 1 << 10;

/// Ticks until the exit of `loop: pause; (nop;) jmp loop`, `None` when 10000 pass without one.
fn ticks(cpl: u8, primary: u32, secondary: u32, gap: u32, window: u32) -> Option<u64> {
    let (mut g, mut v) = guest(cpl);
    v.controls.primary |= primary;
    v.controls.secondary |= secondary;
    v.controls.ple_gap = gap;
    v.controls.ple_window = window;
    g.put(CODE, &[0xF3, 0x90, 0xEB, 0xFC]);
    let ran = SideBySide::new().run(&mut v, &mut g, 10_000);
    if ran.stop == Stop::Budget {
        return None;
    }
    assert_eq!(v.exit.basic_reason(), ExitReason::PAUSE_INSTRUCTION);
    assert_eq!((v.exit.instruction_length, v.exit.qualification), (2, 0));
    assert_eq!(v.regs.rip, CODE);
    Some(ran.ticks)
}

#[test]
fn pause_exiting_exits_at_every_ring_and_before_the_loop_is_looked_at() {
    for cpl in [0, 3] {
        assert_eq!(ticks(cpl, 1 << 30, 0, 0, 0), Some(0));
        let both = ticks(cpl, 1 << 30 | SECONDARY, PAUSE_LOOP, 200, 1000);
        assert_eq!(both, Some(0));
    }
}

#[test]
fn a_loop_of_pauses_exits_when_it_is_longer_than_its_window() {
    // One round is a PAUSE of 140 ticks and a jump of 1: the exit is that of the first PAUSE later than the window.
    assert_eq!(ticks(0, SECONDARY, PAUSE_LOOP, 141, 1000), Some(8 * 141));
    assert_eq!(ticks(0, SECONDARY, PAUSE_LOOP, 141, 8 * 141), Some(9 * 141));
    assert_eq!(ticks(0, SECONDARY, PAUSE_LOOP, 141, 0), Some(141));
}

#[test]
fn pauses_farther_apart_than_the_gap_are_no_loop() {
    assert_eq!(ticks(0, SECONDARY, PAUSE_LOOP, 140, 0), None);
}

#[test]
fn only_ring_0_with_both_controls_has_pause_loops() {
    assert_eq!(ticks(3, SECONDARY, PAUSE_LOOP, 1000, 0), None);
    assert_eq!(ticks(0, 0, PAUSE_LOOP, 1000, 0), None);
    assert_eq!(ticks(0, SECONDARY, 0, 1000, 0), None);
}
