//! A big and sparse TD costs the host what it really holds.

mod life;

use life::{Bench, GIB, MIB};
use tdx_host::{MemRegion, TdConfig};
use tdx_platform::Guests;
use x86_arch::Gpa;

/// Resident memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    pages * 4096
}

#[test]
fn a_td_of_64_gib_lives_and_dies_in_memory_proportional_to_its_pages() {
    const PAGES: u64 = 512;
    let mut bench = Bench::new(1, 1, 72 * GIB, Guests::scripted(|_| {}));
    let free = bench.host.free_pages();
    let up = resident();
    let td = bench.td(TdConfig::default());
    let vcpu = bench.vcpu(&td);
    td.add_ram(0..64 * GIB).expect("guest RAM");
    let lp = &mut bench.lps[0].seam;
    for i in 0..PAGES {
        let gpa = Gpa::new(i * (64 * GIB / PAGES));
        let mut region = MemRegion::new(gpa, 4096, &[1; 4096], false).expect("a page");
        td.init_mem_region(&bench.host, lp, &mut region, 1)
            .expect("a page is added");
    }
    td.finalize(lp).expect("finalized");
    // Every page of the guest needs its own Secure EPT path: at most three pages of tables each.
    let cost = resident().saturating_sub(up);
    assert!(
        cost < PAGES * 4 * 4096 + 32 * MIB,
        "{cost} bytes for {PAGES} pages"
    );
    td.destroy(&bench.host, &mut bench.lps, vec![vcpu])
        .expect("teardown");
    assert_eq!(bench.host.free_pages(), free, "every page came back");
}
