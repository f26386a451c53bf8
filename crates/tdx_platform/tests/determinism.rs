//! The same seed gives the same run; another seed gives other secrets.

mod life;

use life::{GIB, MIB};
use tdx_call::TdxModuleArgs;
use tdx_call::guest::tdg_vp_vmcall;
use tdx_host::{MemRegion, TdConfig};
use tdx_platform::{Guests, PlatformConfig};
use x86_arch::{Gpa, Gpr};

/// TD-scope field TD_UUID, four random words.
const TD_UUID: u64 = 0x8010_0003_0000_0020;

/// What a TD's life shows: its UUID, the words of its exits, and the time at the end.
fn run(seed: u64) -> (Vec<u64>, Vec<u64>, u64) {
    let mut config = PlatformConfig::new(2, 1, GIB);
    config.machine.seed = seed;
    let guests = Guests::scripted(|cpu| {
        for round in 0.. {
            let _ = cpu.work(1000 * round);
            let mut args = TdxModuleArgs {
                r10: round,
                ..TdxModuleArgs::default()
            };
            tdg_vp_vmcall(cpu, 1 << Gpr::R10 as u16, &mut args).expect("a TDVMCALL");
        }
    });
    let mut bench = life::brought_up(config, guests);
    let td = bench.td(TdConfig::default());
    let mut vcpu = bench.vcpu(&td);
    td.add_ram(0..MIB).expect("guest RAM");
    let lp = &mut bench.lps[0].seam;
    let mut region = MemRegion::new(Gpa::new(0), 4096, &[1; 4096], true).expect("a page");
    td.init_mem_region(&bench.host, lp, &mut region, 1)
        .expect("a page is added");
    td.finalize(lp).expect("finalized");
    let uuid = (0..4)
        .map(|i| td.read_field(lp, TD_UUID + i).expect("a field"))
        .collect();
    let hardware = bench.platform.hardware();
    let mut exits = Vec::new();
    for _ in 0..20 {
        hardware.arm_timer(0, hardware.time() + 5000);
        let words = vcpu.enter(lp, 0, 0).expect("an entry");
        exits.extend([words.rax.raw(), words.rcx, words.r9, hardware.time()]);
    }
    let end = hardware.time();
    (uuid, exits, end)
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_tick() {
    let first = run(7);
    assert!(
        first.1.contains(&1) && first.1.contains(&77),
        "interrupts and TDVMCALLs: {:x?}",
        first.1
    );
    assert_eq!(run(7), first);
    let other = run(8);
    assert_ne!(other.0, first.0, "another seed, another UUID");
    assert_eq!(
        (other.1, other.2),
        (first.1, first.2),
        "but the same course"
    );
}
