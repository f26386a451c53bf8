//! Processors are threads: TDs are built, run and torn down on several at once.

mod life;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use life::{GIB, MIB};
use tdx_call::guest::{tdg_mem_page_accept, tdg_vp_vmcall};
use tdx_call::{GpaMapping, TdxModuleArgs};
use tdx_host::{MemRegion, MemoryFault, Run, RunStats, Services, Stop, Td, TdConfig};
use tdx_platform::{Clock, Guests, PlatformConfig, ScriptCpu};
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

/// How often each vCPU converts its page there and back.
const ROUNDS: u64 = 40;
const SHARED: u64 = 1 << 47;

/// The page of a vCPU. All lie in one Secure EPT page, whose entries the processors change at once.
fn page_of(vcpu: u64) -> Gpa {
    Gpa::new(2 * MIB + vcpu * 4096)
}

/// What a vCPU leaves in its page while it is shared.
fn mark(vcpu: u64, round: u64) -> u64 {
    vcpu << 32 | round
}

/// Converts a page again and again; what it finds there each time is what it must be. At last it is shared.
fn converter(cpu: &mut ScriptCpu) {
    let vcpu = cpu.gpr(Gpr::Rsi);
    let page = page_of(vcpu);
    let shared = Gpa::new(page.raw() | SHARED);
    let mapped = GpaMapping::page_4k(page);
    tdg_mem_page_accept(cpu, mapped).expect("the page is accepted");
    for round in 1..=ROUNDS {
        expect_word(cpu, page, 0);
        cpu.store(page, &round.to_le_bytes()).expect("no #VE");
        expect_word(cpu, page, round);
        map_gpa(cpu, shared);
        expect_word(cpu, shared, 0);
        let mark = mark(vcpu, round);
        cpu.store(shared, &mark.to_le_bytes()).expect("no #VE");
        cpu.work(100).expect("no #VE");
        expect_word(cpu, shared, mark);
        map_gpa(cpu, page);
        tdg_mem_page_accept(cpu, mapped).expect("the page is accepted");
    }
    map_gpa(cpu, shared);
}

/// Reads the shared page of vCPU 1 until `over`, through its TLB as long as that may hold the page: it never finds
/// what another vCPU wrote into the same host page later.
fn reader(cpu: &mut ScriptCpu, over: impl Fn() -> bool) {
    let shared = Gpa::new(page_of(1).raw() | SHARED);
    while !over() {
        for _ in 0..50 {
            let mut word = [0; 8];
            cpu.load(shared, &mut word).expect("no #VE");
            let word = u64::from_le_bytes(word);
            assert!(word == 0 || word >> 32 == 1, "{word:#x}");
        }
        cpu.work(1).expect("no #VE");
    }
}

/// A host that lets who meets the wrong half of memory try again.
struct Patient;

impl Services for Patient {
    fn convert_on_fault(&mut self, _vcpu: u32, _gpa: Gpa, _to_shared: bool) -> bool {
        false
    }
}

fn expect_word(cpu: &mut ScriptCpu, at: Gpa, wanted: u64) {
    let mut word = [0; 8];
    cpu.load(at, &mut word).expect("no #VE");
    assert_eq!(u64::from_le_bytes(word), wanted, "at {at}");
}

/// TDVMCALL MapGPA of one page, to the half that the address says.
fn map_gpa(cpu: &mut ScriptCpu, page: Gpa) {
    let mut args = TdxModuleArgs {
        r11: 0x10001,
        r12: page.raw(),
        r13: 4096,
        ..TdxModuleArgs::default()
    };
    tdg_vp_vmcall(cpu, 0x3C00, &mut args).expect("a TDVMCALL");
    assert_eq!(args.r10, 0, "MapGPA succeeds");
}

#[test]
fn pages_are_blocked_tracked_and_removed_while_other_vcpus_run() {
    let mut config = PlatformConfig::new(1, THREADS as u32, GIB);
    config.machine.clock = Clock::Host;
    let done = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&done);
    let guests = Guests::scripted(move |cpu| {
        match cpu.gpr(Gpr::Rsi) {
            0 => reader(cpu, || count.load(Relaxed) as usize == THREADS - 1),
            _ => converter(cpu),
        }
        count.fetch_add(1, Relaxed);
    });
    let mut bench = life::brought_up(config, guests);
    let free = (bench.host.free_pages(), bench.host.free_hkids());
    let (host, lps) = (&bench.host, &mut bench.lps);
    let hardware = Arc::clone(bench.platform.hardware());
    let kick = move || (0..THREADS as u32).for_each(|lp| hardware.interrupt(lp, 0xFD));
    let config = TdConfig {
        max_vcpus: THREADS as u16,
        ..TdConfig::default()
    };
    let td = Td::create(host, lps, config, kick).expect("a TD");
    assert_eq!(td.config().shared_bit(), SHARED);
    td.add_ram(0..4 * MIB).expect("guest RAM");
    let vcpus = (0..THREADS).map(|on| td.add_vcpu(host, lps, on, 0).expect("a vCPU"));
    let mut vcpus: Vec<_> = vcpus.collect();
    td.finalize(&mut lps[0].seam).expect("finalized");
    std::thread::scope(|scope| {
        for (on, (lp, vcpu)) in lps.iter_mut().zip(&mut vcpus).enumerate() {
            let td = &td;
            scope.spawn(move || {
                let mut stats = RunStats::default();
                let mut run = Run {
                    host,
                    td,
                    lp: &mut lp.seam,
                    on,
                    services: &mut Patient,
                    stats: &mut stats,
                };
                // The script's end is a triple fault.
                loop {
                    match run.run(vcpu).expect("no call of the host's fails") {
                        Stop::TripleFault => break,
                        Stop::Interrupted { .. } => {}
                        Stop::MemoryFault(MemoryFault::WrongHalf { .. }) => {
                            std::thread::yield_now();
                        }
                        stop => panic!("{stop:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(done.load(Relaxed) as usize, THREADS, "every script ended");
    assert_eq!(td.stats().removed, (THREADS as u64 - 1) * (ROUNDS + 1));
    for lp in 0..THREADS as u32 {
        while bench
            .platform
            .hardware()
            .acknowledge_interrupt(lp)
            .is_some()
        {}
    }
    td.destroy(host, lps, vcpus).expect("teardown");
    assert_eq!((host.free_pages(), host.free_hkids()), free);
}
