//! Processors are threads: TDs are built, run and torn down on several at once.

mod life;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use life::{GIB, MIB};
use tdx_call::TdxModuleArgs;
use tdx_call::guest::tdg_vp_vmcall;
use tdx_host::{MemRegion, Td, TdConfig};
use tdx_platform::{Clock, Guests, PlatformConfig};
use x86_arch::{Gpa, Gpr};

const THREADS: usize = 3;
const LIVES: u64 = 6;

#[test]
fn tds_live_and_die_on_several_processors_at_once_and_every_page_comes_back() {
    let mut config = PlatformConfig::new(1, THREADS as u32, GIB);
    config.machine.clock = Clock::Host;
    let mask = [Gpr::R10, Gpr::R11, Gpr::R12]
        .iter()
        .fold(0, |mask, &reg| mask | 1 << reg as u16);
    let guests = Guests::scripted(move |cpu| {
        // Each TD finds its own mark in its own memory, and tells it.
        loop {
            let mut word = [0; 8];
            cpu.load(Gpa::new(MIB), &mut word).expect("no #VE");
            let mut args = TdxModuleArgs {
                r12: u64::from_le_bytes(word),
                ..TdxModuleArgs::default()
            };
            tdg_vp_vmcall(cpu, mask, &mut args).expect("a TDVMCALL");
        }
    });
    let mut bench = life::brought_up(config, guests);
    let free = (bench.host.free_pages(), bench.host.free_hkids());
    let host = &bench.host;
    let lived = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (thread, lp) in bench.lps.iter_mut().enumerate() {
            let lived = &lived;
            scope.spawn(move || {
                let lps = std::slice::from_mut(lp);
                for life in 0..LIVES {
                    let mark = (thread as u64) << 32 | life;
                    let td = Td::create(host, lps, TdConfig::default(), || {}).expect("a TD");
                    let mut vcpu = td.add_vcpu(host, lps, 0, 0).expect("a vCPU");
                    td.add_ram(0..4 * MIB).expect("guest RAM");
                    let page = mark.to_le_bytes();
                    let mut region =
                        MemRegion::new(Gpa::new(MIB), 64 * 4096, &page, true).expect("pages");
                    let lp = &mut lps[0].seam;
                    td.init_mem_region(host, lp, &mut region, 64)
                        .expect("pages are added");
                    td.finalize(lp).expect("finalized");
                    for _ in 0..10 {
                        vcpu.enter(lp, 0, 0).expect("an entry");
                        assert_eq!(vcpu.shown().arg(Gpr::R12).expect("shown"), mark);
                    }
                    td.destroy(host, lps, vec![vcpu]).expect("teardown");
                    lived.fetch_add(1, Relaxed);
                }
            });
        }
    });
    assert_eq!(lived.load(Relaxed), (THREADS as u64 * LIVES) as u32);
    assert_eq!((bench.host.free_pages(), bench.host.free_hkids()), free);
}
