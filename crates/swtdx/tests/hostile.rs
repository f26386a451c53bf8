//! Hostile worlds: guests that ask their VMM for anything, a host that calls the module with anything, and VMMs that lie
//! to their guest.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tdx_abi::{HostLeaf, LeafWord};
use tdx_call::guest::{tdg_mem_page_accept, tdg_vp_veinfo_get, tdg_vp_vmcall};
use tdx_call::{GpaMapping, HostMemory, SeamcallLp, TdxModuleArgs, Traffic};
use tdx_devices::{Board, BoardConfig, virtio};
use tdx_host::{Host, HostLayout, Lp, MemRegion, MemoryFault, Run, RunStats, Stop, Td, TdConfig};
use tdx_platform::{Guests, Platform, PlatformConfig, PlatformMemory, ScriptCpu};
use x86_arch::{Gpa, Hpa};

const RAM: u64 = 16 << 20;
const SHARED_BIT: u64 = 1 << 47;

/// SplitMix64: the same world for the same seed.
#[derive(Clone)]
struct Draw(u64);

impl Draw {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }
    fn pick(&mut self, list: &[u64]) -> u64 {
        list[self.below(list.len() as u64) as usize]
    }
}

fn bring_up(
    guests: Guests,
) -> (
    Arc<Platform>,
    Host<PlatformMemory>,
    [Lp<impl SeamcallLp>; 1],
) {
    let platform = Platform::new(PlatformConfig::new(1, 1, 64 << 20), guests);
    let layout = HostLayout {
        memory: platform.info().cmrs,
        private_keys: 32..64,
        keyid_bits: 6,
    };
    let seam = platform.lp(0).expect("the processor");
    let mut lps = [Lp { seam, package: 0 }];
    let host = Host::bring_up(platform.memory(), &layout, &mut lps).expect("bring-up");
    (platform, host, lps)
}

/// A guest of random TDVMCALLs, MapGPA storms and stray accesses, `calls` of them.
fn storm(cpu: &mut ScriptCpu, seed: u64, calls: u32) {
    let mut draw = Draw(seed);
    for _ in 0..calls {
        if draw.below(8) == 0 {
            // Anywhere: RAM or not, shared or private, whatever becomes of it.
            let gpa = draw.below(1 << 46) | SHARED_BIT;
            let near = draw.below(RAM) | draw.pick(&[0, SHARED_BIT]);
            let at = Gpa::new(draw.pick(&[near, near, gpa]) & !7);
            let page = GpaMapping::page_4k(Gpa::new(at.raw() & !0xFFF & !SHARED_BIT));
            if at.raw() & SHARED_BIT == 0 && tdg_mem_page_accept(cpu, page).is_err() {
                continue;
            }
            if cpu.store(at, &draw.word().to_le_bytes()).is_err() {
                // A #VE: the next one can only come when this one was looked at.
                let _ = tdg_vp_veinfo_get(cpu);
            }
            continue;
        }
        let mut r = [0; 5].map(|_| draw.word());
        r[0] = draw.pick(&[
            10, 12, 30, 31, 32, 48, 0x10000, 0x10001, 0x10001, 0x10002, 0x10004, r[1],
        ]);
        if r[0] == 0x10001 || r[0] == 0x10002 {
            r[1] = draw.below(2 * RAM) & !0xFFF | draw.pick(&[0, SHARED_BIT]);
            r[2] = draw.pick(&[0x1000, 0x2000, 0x20_0000, RAM, u64::MAX, 7, 1 << 46]);
        } else if draw.below(4) != 0 {
            r[1] = draw.pick(&[1, 2, 4, 8, 0x80B, 0x830, 0x3F8]);
            r[2] = draw.below(2);
            r[3] = draw.pick(&[
                0x3F8,
                0xCF8,
                0xCFC,
                0x70,
                SHARED_BIT | 0xFEE0_0300,
                SHARED_BIT | 0xFEC0_0010,
            ]);
        }
        // The last words of a guest end it; everybody may have them, but not in a storm.
        let mut args = TdxModuleArgs {
            r10: u64::from(draw.below(20) == 0),
            r11: r[0],
            r12: r[1],
            r13: r[2],
            r14: r[3],
            r15: r[4],
            ..Default::default()
        };
        let mask = match draw.below(8) {
            0 => draw.word() & 0xFFCC,
            _ => 0xFC00,
        };
        let _ = tdg_vp_vmcall(cpu, mask as u16, &mut args);
    }
}

/// The pages that the host has spent on a guest at its end, and the TDVMCALLs that it made.
fn weather(seed: u64, calls: u32) -> (u64, u64) {
    let (_platform, host, mut lps) = bring_up(Guests::scripted(move |cpu| storm(cpu, seed, calls)));
    let free = host.free_pages();
    let td = Td::create(&host, &mut lps, TdConfig::default(), || {}).expect("a TD");
    td.add_ram(0..RAM).expect("RAM");
    let mut vcpu = td.add_vcpu(&host, &mut lps, 0, 0).expect("a vCPU");
    td.finalize(&mut lps[0].seam).expect("finalized");
    let devices: Vec<Box<dyn virtio::Device>> = vec![
        Box::new(virtio::Console::new(Box::new(std::io::sink()))),
        Box::new(virtio::Entropy::new(seed)),
    ];
    let mut board = Board::new(BoardConfig {
        vcpus: 1,
        memory: RAM,
        tsc_khz: 1_000_000,
        clock: Arc::new(|| 0),
        console: Box::new(std::io::sink()),
        firmware: None,
        devices,
    });
    let mut stats = RunStats::default();
    let mut stops = 0;
    loop {
        let stop = Run {
            host: &host,
            td: &td,
            lp: &mut lps[0].seam,
            on: 0,
            services: &mut board,
            stats: &mut stats,
        }
        .run(&mut vcpu)
        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        stops += 1;
        let raised = std::iter::from_fn(|| board.next_interrupt()).take(1000);
        assert!(raised.count() < 1000, "seed {seed}: interrupts without end");
        match stop {
            Stop::Interrupted { .. } | Stop::Halted { .. } | Stop::Devices => {}
            // The wrong half is the VMM's to convert, as KVM's users do.
            Stop::MemoryFault(MemoryFault::WrongHalf { gpa, to_shared }) => match to_shared {
                true => td.make_shared(&host, &mut lps[0].seam, gpa, 4096),
                false => td.make_private(&host, &mut lps[0].seam, gpa, 4096),
            }
            .expect("a conversion"),
            Stop::TripleFault => break,
            other => panic!("seed {seed}: {other:?}"),
        }
        assert!(stops <= 2 * calls, "seed {seed}: a stop without a call");
    }
    let held = td.pages_held();
    td.destroy(&host, &mut lps, vec![vcpu]).expect("teardown");
    assert_eq!(host.free_pages(), free, "seed {seed}");
    (held, stats.tdvmcalls.values().sum())
}

#[test]
fn no_guest_brings_its_host_down_or_makes_it_grow() {
    let mut most = 0;
    let mut calls = 0;
    for seed in 0..24 {
        let (held, made) = weather(seed, 400);
        most = most.max(held);
        calls += made;
    }
    println!("24 guests of up to 400 requests: {calls} TDVMCALLs, at most {most} pages held");
    // Pages of RAM that it used, in one 16 MiB piece, and their tables; stray accesses cost nothing.
    assert!(most < 100, "{most} pages");
    assert!(calls > 24 * 300, "{calls}: the guests ended early");
}

/// Keeps a secret in a page and looks at it between TDVMCALLs. Says so if it ever reads what it did not write.
fn keeper(cpu: &mut ScriptCpu, wrong: &AtomicBool) {
    let page = Gpa::new(0x1000);
    for secret in 1_u64.. {
        if cpu.store(page, &secret.to_le_bytes()).is_err() {
            return;
        }
        let mut args = TdxModuleArgs {
            r11: 12,
            ..Default::default()
        };
        let _ = tdg_vp_vmcall(cpu, 0xFC00, &mut args);
        let mut bytes = [0; 8];
        match cpu.load(page, &mut bytes) {
            Ok(()) if bytes == secret.to_le_bytes() => {}
            Ok(()) => return wrong.store(true, SeqCst),
            Err(_) => return,
        }
    }
}

/// Every leaf with operands out of a pool against a running TD, its pages overwritten and put back now and then.
fn siege(seed: u64, calls: u32) -> (u32, u32) {
    let wrong = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&wrong);
    let (platform, host, mut lps) = bring_up(Guests::scripted(move |cpu| keeper(cpu, &told)));
    let mut draw = Draw(seed);
    let td = Td::create(&host, &mut lps, TdConfig::default(), || {}).expect("a TD");
    td.add_ram(0..RAM).expect("RAM");
    let mut region =
        MemRegion::new(Gpa::new(0x1000), 0x4000, &[0x5A; 100], false).expect("a region");
    td.init_mem_region(&host, &mut lps[0].seam, &mut region, 4)
        .expect("pages");
    let mut vcpu = td.add_vcpu(&host, &mut lps, 0, 0).expect("a vCPU");
    td.finalize(&mut lps[0].seam).expect("finalized");
    let first = td.tdr().0.raw();
    // Odd worlds tamper with memory; the module itself must not be made to read that (it would stop, as hardware does).
    let tampers = seed % 2 == 1;
    let reads_pages = [
        HostLeaf::MEM_PAGE_RELOCATE,
        HostLeaf::MR_EXTEND,
        HostLeaf::MEM_RD,
        HostLeaf::MEM_WR,
    ];
    let (mut refused, mut entered) = (0, 0);
    for at in 0..calls {
        let lp = &mut lps[0].seam;
        if draw.below(4) == 0
            && let Ok(words) = vcpu.enter(lp, 0, draw.pick(&[0, 0, 0, 1 << 52, 1 << 53]))
        {
            entered += u32::from(!words.rax.is_error());
        }
        let leaf = HostLeaf(draw.below(50) as u16);
        let ends_it = [HostLeaf::SYS_SHUTDOWN, HostLeaf::VP_ENTER].contains(&leaf);
        if ends_it || tampers && reads_pages.contains(&leaf) {
            continue;
        }
        let mut operand = || {
            let near = first + (draw.below(40) << 12);
            let gpa = draw.below(8) << 12 | draw.below(3);
            draw.clone()
                .pick(&[first, near, near, gpa, gpa, 0x1000, draw.word(), 0])
        };
        let mut args = TdxModuleArgs {
            rcx: operand(),
            rdx: operand(),
            r8: operand(),
            r9: operand(),
            r10: operand(),
            ..Default::default()
        };
        let version = u8::from(draw.below(8) == 0);
        let answer = lp.seamcall(LeafWord::new(leaf.0, version), &mut args, Traffic::Saved);
        let status = answer.unwrap_or_else(|why| panic!("seed {seed}, call {at}: {leaf}: {why}"));
        refused += u32::from(status.is_error());
        if tampers && draw.below(10) == 0 {
            // Overwrites any page near the TD's, or puts an old copy back.
            let page = Hpa::new(first + (draw.below(40) << 12));
            let mut old = [0; 4096];
            let _ = host.memory().read(page, &mut old);
            let _ = host
                .memory()
                .write(page, &old[..draw.pick(&[8, 64, 4096]) as usize]);
        }
        if at % 50 == 0 {
            let audit = platform.module().audit();
            assert!(
                audit.is_empty(),
                "seed {seed}, call {at}, {leaf}: {audit:?}"
            );
        }
        assert!(
            !wrong.load(SeqCst),
            "seed {seed}, call {at}: the guest read what it did not write"
        );
    }
    let audit = platform.module().audit();
    assert!(audit.is_empty(), "seed {seed}: {audit:?}");
    (refused, entered)
}

#[test]
fn no_host_breaks_a_rule_of_the_module_or_a_page_of_the_guest() {
    let (mut refused, mut entered) = (0, 0);
    for seed in 0..24 {
        let (no, yes) = siege(seed, 600);
        refused += no;
        entered += yes;
    }
    println!("24 hosts of 600 calls: {refused} refused, {entered} entries into the guest");
    assert!(refused > 1000 && entered > 100, "{refused} {entered}");
}

#[test]
fn a_vmm_that_lies_to_the_embedded_guest_gets_a_defined_end() {
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..9 {
        let rule = [
            "lie:TDH.VP.ENTER@~200",
            "lie:TDH.VP.ENTER@~2",
            "lie:TDH.VP.ENTER",
        ][seed % 3];
        let ran = Command::new(env!("CARGO_BIN_EXE_swtdx"))
            .args([
                "run",
                "--quiet",
                "--memory",
                "64M",
                "--timeout",
                "20",
                "--fault",
                rule,
            ])
            .args(["--seed", &seed.to_string()])
            .output()
            .expect("the program runs");
        let code = ran.status.code();
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(
            matches!(code, Some(0 | 3 | 4 | 6)),
            "seed {seed}: {code:?} {told}"
        );
        *ends.entry(code).or_insert(0) += 1;
    }
    println!("exit status and how often: {ends:?}");
    assert!(ends[&Some(3)] > 0, "no lie was noticed: {ends:?}");
}
