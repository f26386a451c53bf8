//! Calls per second of the leaves that matter for building and running TDs, through the direct backend.
//!
//! `cargo bench -p tdx_platform`. PAGE.ADD and MR.EXTEND stand beside the SHA-384 that they must do: of 128 bytes,
//! and of three times 128 bytes. The last rows run a TD of its own on each of one and two processors. Times are of
//! the thread on its processor, so that what else the machine does counts little.

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha384};
use tdx_call::host::{tdh_mem_page_add, tdh_mem_sept_rd, tdh_mng_rd, tdh_mr_extend};
use tdx_call::{Direct, FieldId, GpaMapping, HostMemory};
use tdx_host::{Host, HostLayout, Lp, MemRegion, Td, TdConfig, Vcpu};
use tdx_platform::{Clock, Guests, Platform, PlatformConfig, PlatformLp, PlatformMemory};
use x86_arch::vmx::{Seg, Vcpu as Processor};
use x86_arch::{ExitReason, Gpa, Gpr, Hpa, VmExit};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// TD-scope field ATTRIBUTES.
const ATTRIBUTES: FieldId = FieldId(0x1110_0003_0000_0000);
/// Memory that the host keeps for the pages of the PAGE.ADD row.
const OWN: std::ops::Range<u64> = 16 * MIB..528 * MIB;
const SOURCE: Hpa = Hpa::new(15 * MIB);
/// How long each row is measured.
const LONG: Duration = Duration::from_millis(400);

/// A guest that only makes TDVMCALLs which show R10 to R15, as Linux does.
fn tdvmcalls(vcpu: &mut Processor) {
    let regs = &mut vcpu.regs;
    regs.gpr[Gpr::Rax.index()] = 0;
    regs.gpr[Gpr::Rcx.index()] = 0xFC00;
    // 64-bit mode: EFER.LMA, CR0.PG, CR4.PAE, CS.L and the entry control.
    regs.segments[Seg::Cs as usize].access = 0xA09B;
    regs.msr.efer |= 0x500;
    regs.cr0 |= 0x8000_0001;
    regs.cr4 |= 0x20;
    vcpu.controls.entry |= 1 << 9;
    vcpu.exit = VmExit {
        instruction_length: 4,
        ..VmExit::new(ExitReason::TDCALL)
    };
}

type Processors = Vec<Lp<Direct<PlatformLp>>>;

/// A platform whose module is ready, with `lps` processors.
fn bring_up(lps: u32) -> (Host<PlatformMemory>, Processors) {
    let mut config = PlatformConfig::new(1, lps, 8 * GIB);
    // Virtual time is one counter for all processors, which is not what threads are for.
    config.machine.clock = Clock::Host;
    let platform = Platform::new(config, Guests::stepped(tdvmcalls));
    let seams = platform.lps().into_iter();
    let mut lps: Vec<_> = seams.map(|seam| Lp { seam, package: 0 }).collect();
    let cmrs = platform.info().cmrs.into_iter();
    let layout = HostLayout {
        memory: cmrs.map(|cmr| cmr.start.max(OWN.end)..cmr.end).collect(),
        private_keys: 32..64,
        keyid_bits: 6,
    };
    let host = Host::bring_up(platform.memory(), &layout, &mut lps).expect("bring-up");
    (host, lps)
}

/// A TD of one vCPU with one page, still being built.
fn new_td(host: &Host<PlatformMemory>, lps: &mut [Lp<Direct<PlatformLp>>]) -> (Td, Vcpu) {
    let td = Td::create(host, lps, TdConfig::default(), || {}).expect("a TD");
    let vcpu = td.add_vcpu(host, lps, 0, 0).expect("a vCPU");
    td.add_ram(0..4 * GIB).expect("guest RAM");
    let mut region = MemRegion::new(Gpa::new(0), 4096, &[1], false).expect("a page");
    td.init_mem_region(host, &mut lps[0].seam, &mut region, 1)
        .expect("a page is added");
    (td, vcpu)
}

/// Time that this thread was on a processor, so that a busy machine does not count; the time of day where the kernel
/// does not tell.
fn on_cpu() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat");
    let nanos = stat.ok().and_then(|s| s.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

/// Seconds per call of `call`, which says how many calls it made.
fn seconds(mut call: impl FnMut() -> u64) -> f64 {
    call();
    let (start, mut calls) = (on_cpu(), 0);
    loop {
        calls += call();
        let spent = on_cpu() - start;
        if spent > LONG {
            return spent.as_secs_f64() / calls as f64;
        }
    }
}

fn many(n: u64, mut call: impl FnMut()) -> impl FnMut() -> u64 {
    move || {
        (0..n).for_each(|_| call());
        n
    }
}

fn row(name: &str, seconds: f64, hashing: Option<f64>) {
    let beside = hashing.map(|h| format!("   {:.2} times its hashing", seconds / h));
    println!(
        "{name:<28} {:>9.0} ns {:>12.0} calls/s{}",
        seconds * 1e9,
        1.0 / seconds,
        beside.unwrap_or_default()
    );
}

fn one_processor() {
    let (host, mut lps) = bring_up(1);
    let (td, mut vcpu) = new_td(&host, &mut lps);
    let tdr = td.tdr();

    let mut hash = Sha384::new();
    let block = seconds(many(1000, || hash.update(black_box([7; 128]))));
    row("SHA-384 of 128 bytes", block, None);

    let at = GpaMapping::page_4k(Gpa::new(0));
    let lp = &mut lps[0].seam;
    let read = seconds(many(1000, || {
        black_box(tdh_mem_sept_rd(lp, at, tdr).expect("an entry"));
    }));
    row("TDH.MEM.SEPT.RD", read, None);
    let read = seconds(many(1000, || {
        black_box(tdh_mng_rd(lp, tdr, ATTRIBUTES).expect("a field"));
    }));
    row("TDH.MNG.RD", read, None);
    let mut chunk = 0;
    let extend = seconds(many(1000, || {
        tdh_mr_extend(lp, Gpa::new(chunk), tdr).expect("extended");
        chunk = (chunk + 256) % 4096;
    }));
    row("TDH.MR.EXTEND", extend, Some(3.0 * block));

    // The pages' Secure EPT is there before: one page of each 2 MiB is added by the host.
    let (first, pages) = (GIB, (OWN.end - OWN.start) / 2 / 4096);
    for i in 0..pages.div_ceil(511) {
        let gpa = Gpa::new(first + i * 2 * MIB);
        let mut region = MemRegion::new(gpa, 4096, &[1], false).expect("a page");
        td.init_mem_region(&host, lp, &mut region, 1)
            .expect("a page is added");
    }
    host.memory()
        .write(SOURCE, &[0x5A; 4096])
        .expect("host memory");
    // Half of the pages held something before; what the host kernel takes to back the others is in their time.
    let half = pages / 2;
    for i in 0..half {
        let page = Hpa::new(OWN.start + i * 4096);
        host.memory().write(page, &[1; 4096]).expect("host memory");
        host.memory().clear_page(page).expect("host memory");
    }
    let rows = [
        ("TDH.MEM.PAGE.ADD, used page", 0..half),
        ("TDH.MEM.PAGE.ADD, new page", half..pages),
    ];
    for (name, pages) in rows {
        let count = (pages.end - pages.start) as f64;
        let start = on_cpu();
        for i in pages {
            let gpa = first + i / 511 * 2 * MIB + (i % 511 + 1) * 4096;
            let at = GpaMapping::page_4k(Gpa::new(gpa));
            tdh_mem_page_add(lp, at, tdr, Hpa::new(OWN.start + i * 4096), SOURCE).expect("added");
        }
        let spent = (on_cpu() - start).as_secs_f64();
        row(name, spent / count, Some(block));
    }

    td.finalize(lp).expect("finalized");
    let enter = seconds(many(1000, || {
        black_box(vcpu.enter(lp, 0, 0).expect("an entry"));
    }));
    row("TDH.VP.ENTER, a TDVMCALL", enter, None);
}

/// Calls per second of all of `threads` processors, each with a TD of its own.
fn scaled(
    name: &str,
    threads: u32,
    call: impl Fn(&mut Direct<PlatformLp>, &Td, &mut Vcpu) + Sync,
) -> f64 {
    let (host, mut lps) = bring_up(2);
    let mut owned = Vec::new();
    for lp in lps.iter_mut().take(threads as usize) {
        let lp = std::slice::from_mut(lp);
        let (td, vcpu) = new_td(&host, lp);
        td.finalize(&mut lp[0].seam).expect("finalized");
        owned.push((lp, td, vcpu));
    }
    let rates = std::thread::scope(|scope| {
        let threads: Vec<_> = owned
            .iter_mut()
            .map(|(lp, td, vcpu)| {
                let call = &call;
                scope.spawn(move || 1.0 / seconds(many(1000, || call(&mut lp[0].seam, td, vcpu))))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .sum::<f64>()
    });
    println!("{name:<28} {threads} processors {rates:>12.0} calls/s");
    rates
}

fn main() {
    // `cargo test --benches` passes --test: nothing is measured then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    one_processor();
    let enter = |lp: &mut Direct<PlatformLp>, _: &Td, vcpu: &mut Vcpu| {
        black_box(vcpu.enter(lp, 0, 0).expect("an entry"));
    };
    let read = |lp: &mut Direct<PlatformLp>, td: &Td, _: &mut Vcpu| {
        black_box(tdh_mng_rd(lp, td.tdr(), ATTRIBUTES).expect("a field"));
    };
    let [one, two] = [1, 2].map(|n| scaled("TDH.VP.ENTER, own TDs", n, enter));
    println!("{:<28} {:.2} times", "", two / one);
    let [one, two] = [1, 2].map(|n| scaled("TDH.MNG.RD, own TDs", n, read));
    println!("{:<28} {:.2} times", "", two / one);
}
