//! Every fault at every call of a small TD's life, a sample of faults while an OVMF TD is built, and the bug that
//! hosts have with a busy BLOCK. After each: nothing of the TD is left in the module.

mod life;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use life::{GIB, MIB, ovmf};
use tdvf::Image;
use tdx_abi::{HostLeaf, Status};
use tdx_call::backend::{Fault, FaultRule, Faulty, Recorded, Schedule, Site, Traced, When};
use tdx_call::guest::{tdg_mem_page_accept, tdg_vp_vmcall};
use tdx_call::host::{
    tdh_mem_page_demote, tdh_mem_page_remove, tdh_mem_range_block, tdh_mem_track,
};
use tdx_call::{CallError, GpaMapping, HostMemory, NoSeam, SeamcallLp, TdxModuleArgs};
use tdx_host::tdvmcall::Services;
use tdx_host::{
    Host, HostError, HostLayout, Lp, MemRegion, Run, RunStats, Stop, Td, TdConfig, Vcpu,
};
use tdx_platform::{Guests, Platform, PlatformConfig, PlatformMemory, ScriptCpu};
use x86_arch::Gpa;

const RAM: u64 = 16 << 20;
const IO: u64 = 30;
const MAP_GPA: u64 = 0x10001;
const SHARED_BIT: u64 = 1 << 47;

/// Accepts three pages, prints, gives one back to the host and takes it again.
fn guest(cpu: &mut ScriptCpu) {
    let vmcall = |cpu: &mut ScriptCpu, [r11, r12, r13, r14, r15]: [u64; 5]| {
        let mut args = TdxModuleArgs {
            r11,
            r12,
            r13,
            r14,
            r15,
            ..Default::default()
        };
        tdg_vp_vmcall(cpu, 0xFC00, &mut args)
    };
    let mut life = || -> Result<(), CallError> {
        for page in [0x10_0000, 0x10_1000, 0x10_2000] {
            tdg_mem_page_accept(cpu, GpaMapping::page_4k(Gpa::new(page)))?;
        }
        for byte in *b"hi" {
            vmcall(cpu, [IO, 1, 1, 0x3F8, byte.into()])?;
        }
        let page = 0x10_1000;
        vmcall(cpu, [MAP_GPA, page | SHARED_BIT, 4096, 0, 0])?;
        let _ = cpu.store(Gpa::new(page | SHARED_BIT), b"public");
        vmcall(cpu, [MAP_GPA, page, 4096, 0, 0])?;
        tdg_mem_page_accept(cpu, GpaMapping::page_4k(Gpa::new(page)))?;
        Ok(())
    };
    life().expect("the module serves this guest");
}

#[derive(Default)]
struct Printed(Vec<u8>);

impl Services for Printed {
    fn io_write(&mut self, _vcpu: u32, _port: u16, _size: u8, value: u32) {
        self.0.push(value as u8);
    }
}

/// A host that is up, and what it and the module had before there was a TD.
struct Bench {
    platform: Arc<Platform>,
    host: Host<PlatformMemory>,
    before: (u64, usize),
}

impl Bench {
    fn new(ram: u64, guests: Guests) -> Bench {
        let mut config = PlatformConfig::new(1, 1, ram);
        config.machine.seed = 7;
        let platform = Platform::new(config, guests);
        let layout = HostLayout {
            memory: platform.info().cmrs,
            private_keys: 32..64,
            keyid_bits: 6,
        };
        let mut lps: Vec<_> = platform.lps().into_iter().map(on_package_0).collect();
        let host = Host::bring_up(platform.memory(), &layout, &mut lps).expect("bring-up");
        let before = (host.free_pages(), host.free_hkids());
        Bench {
            platform,
            host,
            before,
        }
    }

    /// The processor, its calls disturbed and seen.
    fn lp<'a, S: FnMut(&Recorded) + 'a>(
        &self,
        schedule: &'a Schedule,
        seen: S,
    ) -> [Lp<impl SeamcallLp + use<'a, S>>; 1] {
        let lp = self.platform.lp(0).expect("the processor");
        let faulty = Faulty::on(lp, schedule, self.platform.disturber(0));
        [on_package_0(Traced::new(faulty, seen))]
    }

    /// Nothing of any TD is left, for the host or in the module.
    fn left(&self) -> Option<String> {
        let now = (self.host.free_pages(), self.host.free_hkids());
        let in_use = self.platform.module().in_use();
        let audit = self.platform.module().audit();
        let clean = now == self.before && in_use.is_empty() && audit.is_empty();
        (!clean).then(|| format!("{now:?} of {:?} free; {in_use:?}; {audit:?}", self.before))
    }
}

fn on_package_0<L>(seam: L) -> Lp<L> {
    Lp { seam, package: 0 }
}

/// How a life ended.
#[derive(Debug)]
struct Lived {
    stop: Result<Stop, HostError>,
    /// `Err`: something leaked. `Ok(Some)`: teardown had to begin again.
    teardown: Result<Option<HostError>, HostError>,
    printed: Vec<u8>,
}

/// From TDH.MNG.CREATE to the last TDH.PHYMEM.PAGE.RECLAIM.
fn live<L: SeamcallLp>(bench: &Bench, lps: &mut [Lp<L>]) -> Lived {
    let host = &bench.host;
    let mut printed = Printed::default();
    let config = TdConfig {
        max_vcpus: 1,
        ..TdConfig::default()
    };
    let td = match Td::create(host, lps, config, || {}) {
        Ok(td) => td,
        Err(why) => {
            let teardown = match &why {
                HostError::Leaked(_) => Err(why.clone()),
                _ => Ok(None),
            };
            return Lived {
                stop: Err(why),
                teardown,
                printed: Vec::new(),
            };
        }
    };
    let mut vcpus = Vec::new();
    let stop = run(host, &td, lps, &mut vcpus, &mut printed);
    let torn = td.destroy(host, lps, vcpus);
    Lived {
        stop,
        teardown: torn.map(|report| report.hindered),
        printed: printed.0,
    }
}

fn run<L: SeamcallLp, M: HostMemory>(
    host: &Host<M>,
    td: &Td,
    lps: &mut [Lp<L>],
    vcpus: &mut Vec<Vcpu>,
    printed: &mut Printed,
) -> Result<Stop, HostError> {
    td.add_ram(0..RAM)?;
    for (gpa, pages, measured) in [(0x1000, 1, true), (0x2000, 4, false)] {
        let mut region = MemRegion::new(Gpa::new(gpa), pages << 12, &[0x5A; 4000], measured)?;
        td.init_mem_region(host, &mut lps[0].seam, &mut region, u64::MAX)?;
    }
    vcpus.push(td.add_vcpu(host, lps, 0, 0)?);
    td.finalize(&mut lps[0].seam)?;
    let mut stats = RunStats::default();
    loop {
        let stop = Run {
            host,
            td,
            lp: &mut lps[0].seam,
            on: 0,
            services: printed,
            stats: &mut stats,
        }
        .run(&mut vcpus[0])?;
        if !matches!(stop, Stop::Interrupted { .. }) {
            return Ok(stop);
        }
    }
}

/// The leaf of each call of a life in which nothing fails.
fn calls(bench: &Bench) -> Vec<HostLeaf> {
    let seen = RefCell::new(Vec::new());
    let schedule = Schedule::new([], 0);
    let lived = {
        let mut lps = bench.lp(&schedule, |call| seen.borrow_mut().push(leaf_of(call)));
        live(bench, &mut lps)
    };
    assert_eq!(lived.stop, Ok(Stop::TripleFault), "the script has ended");
    assert_eq!((lived.teardown, &lived.printed[..]), (Ok(None), &b"hi"[..]));
    assert_eq!(bench.left(), None);
    seen.into_inner()
}

fn leaf_of(call: &Recorded) -> HostLeaf {
    match call {
        Recorded::Seamcall { leaf, .. } => HostLeaf(leaf.number()),
        Recorded::VpEnter { .. } => HostLeaf::VP_ENTER,
    }
}

/// Everything that a leaf may answer: its row's statuses, each of its locks held, and no module at all.
fn answers(leaf: HostLeaf) -> Vec<Fault> {
    let row = leaf.row().expect("a leaf of the ABI");
    let mut statuses: Vec<Status> = row.statuses.to_vec();
    statuses.extend(row.taken_locks().map(|lock| lock.busy()));
    statuses.sort();
    statuses.dedup();
    let no_seam = [
        NoSeam::VmFailInvalid,
        NoSeam::GeneralProtection,
        NoSeam::InvalidOpcode,
    ];
    let statuses = statuses.into_iter().map(Fault::Answer);
    statuses.chain(no_seam.map(Fault::NoSeam)).collect()
}

fn at_call(fault: Fault, first: usize) -> Schedule {
    let rule = FaultRule {
        fault,
        site: Site::Every,
        when: When::From {
            first: first as u32,
            count: 1,
        },
    };
    Schedule::new([rule], 0)
}

/// How a life with a fault in it ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Ending {
    /// The guest noticed nothing.
    CleanRetry,
    /// It ended as always, and teardown had to begin again.
    TeardownAgain,
    /// The failure was reported, and the TD went without a trace.
    CleanTeardown,
    /// The vCPU or the TD died of it, and went without a trace.
    Died,
}

/// Judges a life, or says what is wrong with it.
fn judge(lived: &Lived, leaf: HostLeaf, fault: Fault) -> Result<Ending, String> {
    let hindered = match &lived.teardown {
        Ok(hindered) => hindered,
        Err(leak) => return Err(format!("a leak: {leak}")),
    };
    let (why, ending) = match (&lived.stop, hindered) {
        (Ok(Stop::TripleFault), None) if lived.printed == b"hi" => return Ok(Ending::CleanRetry),
        (Ok(Stop::TripleFault), Some(why)) if lived.printed == b"hi" => {
            (why.to_string(), Ending::TeardownAgain)
        }
        (Ok(Stop::Dead { .. } | Stop::Unexpected { .. } | Stop::MemoryFault(_)), _) => {
            return Ok(Ending::Died);
        }
        (Ok(stop), _) => return Err(format!("it stopped with {stop:?}")),
        (Err(why), _) => (why.to_string(), Ending::CleanTeardown),
    };
    // A status without the error bit tells of something that is not so; the call that trips over it is named.
    let (named, told) = match fault {
        Fault::Answer(status) if status.is_error() => (leaf.to_string(), status.to_string()),
        Fault::NoSeam(why) => (leaf.to_string(), why.to_string()),
        _ => ("TDH.".to_owned(), "TDX_".to_owned()),
    };
    match why.contains(&named) && why.contains(&told) {
        true => Ok(ending),
        false => Err(format!("the error does not name it: {why}")),
    }
}

/// The lives in which `faults` happen to one call each: how many there were, and how they ended.
struct Sweep {
    pairs: u32,
    endings: BTreeMap<Ending, u32>,
    wrong: Vec<String>,
}

/// A life for every call and every fault that `faults` gives for its leaf.
fn sweep(faults: impl Fn(HostLeaf) -> Vec<Fault>) -> Sweep {
    let fresh = || Bench::new(64 * MIB, Guests::scripted(guest));
    let mut bench = fresh();
    let leaves = calls(&bench);
    assert!(leaves.len() <= 150, "{} calls", leaves.len());
    let mut sweep = Sweep {
        pairs: 0,
        endings: BTreeMap::new(),
        wrong: Vec::new(),
    };
    for (at, &leaf) in leaves.iter().enumerate() {
        for fault in faults(leaf) {
            let schedule = at_call(fault, at + 1);
            let lived = live(&bench, &mut bench.lp(&schedule, |_| {}));
            sweep.pairs += 1;
            let left = bench.left().map(|left| match &lived.teardown {
                Err(leak) => format!("{leak}: {left}"),
                Ok(_) => left,
            });
            if sweep.pairs.is_multiple_of(100) || left.is_some() {
                // The threads of the scripts that ended go with their platform.
                bench = fresh();
            }
            match left.map_or_else(|| judge(&lived, leaf, fault), Err) {
                Ok(ending) => *sweep.endings.entry(ending).or_default() += 1,
                Err(why) => sweep
                    .wrong
                    .push(format!("call {} {leaf}, {fault:?}: {why}", at + 1)),
            }
        }
    }
    println!(
        "{} calls, {} pairs of call and fault:",
        leaves.len(),
        sweep.pairs
    );
    for (ending, count) in &sweep.endings {
        println!("  {count:5} {ending:?}");
    }
    println!("  {:5} wrong", sweep.wrong.len());
    sweep
}

#[test]
fn every_status_of_every_call_of_a_small_tds_life_ends_cleanly() {
    let Sweep {
        pairs,
        endings,
        wrong,
    } = sweep(answers);
    assert_eq!(wrong, Vec::<String>::new());
    assert!(pairs > 900 && endings.len() == 4, "{pairs} {endings:?}");
}

#[test]
fn an_interrupt_during_any_call_is_only_a_delay() {
    let Sweep { endings, wrong, .. } = sweep(|_| vec![Fault::Interrupt]);
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(endings.keys().collect::<Vec<_>>(), [&Ending::CleanRetry]);
}

/// A host that believes in a call which was never made: only a page that it took for reclaimed is lost, and named.
#[test]
fn a_call_that_never_was_loses_no_page_but_one_that_was_to_be_taken_back() {
    let Sweep { endings, wrong, .. } = sweep(|_| vec![Fault::Lost]);
    let taken_back = ["TDH.PHYMEM.PAGE.RECLAIM, ", "TDH.MEM.PAGE.REMOVE, "];
    for loss in &wrong {
        assert!(taken_back.iter().any(|leaf| loss.contains(leaf)), "{loss}");
        assert!(loss.contains("TD_ASSOCIATED_PAGES_EXIST"), "{loss}");
    }
    assert!(endings[&Ending::CleanRetry] > 20, "{endings:?}");
}

/// SplitMix64, so that the sample is the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % limit as u64) as usize
    }
}

/// The regions of the image that are added before the TD runs.
fn regions<'a>(image: &Image<'a>) -> Vec<MemRegion<'a>> {
    let added = image
        .sections()
        .filter(|s| !s.attributes.augmented() && s.pages() > 0);
    let region = |section: tdvf::Section| {
        let size = section.end() - section.memory_address;
        let measured = section.attributes.extended();
        MemRegion::new(
            Gpa::new(section.memory_address),
            size,
            image.data(&section),
            measured,
        )
    };
    added
        .map(|section| region(section).expect("a region"))
        .collect()
}

/// Builds the TD of an image, each step again after a failure, which `failed` hears of. The MRTD, and the leak if any.
fn build<L: SeamcallLp>(
    bench: &Bench,
    lps: &mut [Lp<L>],
    image: &Image<'_>,
    mut failed: impl FnMut(&HostError) -> Resolve,
) -> (Option<[u8; 48]>, Result<(), HostError>) {
    let host = &bench.host;
    let td = loop {
        match Td::create(host, lps, TdConfig::default().debug(true), || {}) {
            Ok(td) => break td,
            Err(why) => match failed(&why) {
                Resolve::GoOn => {}
                Resolve::GiveUp => return (None, Ok(())),
            },
        }
    };
    let mut vcpus = Vec::new();
    let mut regions = regions(image);
    let mut build = || -> Result<Option<[u8; 48]>, HostError> {
        if td.pages_held() > 0 && !td.is_ram(Gpa::new(0), 4096) {
            td.add_ram(0..GIB)?;
            td.add_ram(0xFFC0_0000..0x1_0000_0000)?;
        }
        if vcpus.is_empty() {
            vcpus.push(td.add_vcpu(host, lps, 0, 0)?);
        }
        for region in &mut regions {
            while region.progress().done < region.progress().total {
                td.init_mem_region(host, &mut lps[0].seam, region, 64)?;
            }
        }
        if !td.is_finalized() {
            td.finalize(&mut lps[0].seam)?;
        }
        td.mrtd(&mut lps[0].seam)
    };
    let mrtd = loop {
        match build() {
            Ok(mrtd) => break mrtd,
            Err(why) => match failed(&why) {
                Resolve::GoOn => {}
                Resolve::GiveUp => break None,
            },
        }
    };
    let torn = td.destroy(host, lps, vcpus);
    (mrtd, torn.map(|_| ()))
}

/// What a builder does about a failure.
enum Resolve {
    GoOn,
    GiveUp,
}

/// Faults spread over the building of a real image's TD. Most steps can be made again after a failure, and at the end
/// the measurement is that of a build without any; every tenth build is given up at its first failure instead.
#[test]
fn a_sample_of_faults_in_the_building_of_an_ovmf_td_ends_cleanly() {
    const PAIRS: usize = 500;
    const PER_BUILD: usize = 10;
    let Some(bytes) = ovmf() else { return };
    let image = Image::parse(&bytes).expect("a TDVF image");
    let bench = Bench::new(2 * GIB, Guests::stepped(|_| {}));
    let leaves = RefCell::new(Vec::new());
    let none = Schedule::new([], 0);
    let whole = {
        let mut lps = bench.lp(&none, |call| leaves.borrow_mut().push(leaf_of(call)));
        let (mrtd, torn) = build(&bench, &mut lps, &image, |why| panic!("{why}"));
        torn.expect("teardown");
        mrtd.expect("a DEBUG TD's MRTD")
    };
    let leaves = leaves.into_inner();
    let building = leaves
        .iter()
        .position(|&leaf| leaf == HostLeaf::MR_FINALIZE);
    let building = building.expect("the build ends") + 1;
    let mut draw = Draw(500);
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    let mut tried = 0;
    for round in 0.. {
        if tried >= PAIRS {
            break;
        }
        let give_up = round % 10 == 9;
        let mut rules = Vec::new();
        // The last ones first: the calls that a failure adds do not move the others past the end.
        let mut places: Vec<usize> = (0..PER_BUILD).map(|_| draw.below(building)).collect();
        places.sort();
        for at in places {
            let faults = answers(leaves[at]);
            rules.push((leaves[at], faults[draw.below(faults.len())], at));
        }
        let schedule = Schedule::new(
            rules.iter().map(|&(leaf, fault, at)| FaultRule {
                fault,
                site: Site::Leaf(leaf),
                when: When::From {
                    first: leaves[..=at].iter().filter(|&&l| l == leaf).count() as u32,
                    count: 1,
                },
            }),
            0,
        );
        let mut failures = 0;
        let mut lps = bench.lp(&schedule, |_| {});
        let (mrtd, torn) = build(&bench, &mut lps, &image, |why| {
            let told = why.to_string();
            assert!(told.contains("TDH."), "no leaf is named: {told}");
            failures += 1;
            // What follows a vCPU that was half made is another TD's.
            match give_up || told.contains("TDH.VP.") {
                true => Resolve::GiveUp,
                false => Resolve::GoOn,
            }
        });
        drop(lps);
        torn.unwrap_or_else(|leak| panic!("round {round}: {leak}"));
        assert_eq!(bench.left(), None, "round {round}: {rules:?}");
        let hits: u32 = schedule.counts().map(|(_, _, hits)| hits).sum();
        tried += hits as usize;
        match mrtd {
            Some(mrtd) => {
                assert_eq!(mrtd, whole, "round {round}: {rules:?}");
                *ends.entry("reported, and the step made again").or_default() += failures;
                *ends.entry("overcome unseen").or_default() += hits as usize - failures;
            }
            None => {
                *ends
                    .entry("given up and torn down, pairs in them")
                    .or_default() += hits as usize
            }
        }
    }
    println!("{building} calls to build; {tried} sampled pairs of call and status:");
    for (end, count) in &ends {
        println!("  {count:5} {end}");
    }
    assert!((PAIRS..PAIRS + PER_BUILD).contains(&tried));
    assert_eq!(ends.values().sum::<usize>(), tried, "each pair has one end");
}

/// A TD with a 4 KiB page at 0x1000 and a 2 MiB page at 4 MiB that the guest has accepted, just interrupted.
fn running<L: SeamcallLp>(bench: &Bench, lps: &mut [Lp<L>]) -> (Td, Vec<Vcpu>) {
    let host = &bench.host;
    let td = Td::create(host, lps, TdConfig::default(), || {}).expect("a TD");
    td.add_ram(0..RAM).expect("RAM");
    let mut region = MemRegion::new(Gpa::new(0x1000), 4096, &[1], false).expect("a region");
    td.init_mem_region(host, &mut lps[0].seam, &mut region, 1)
        .expect("a page");
    let mut vcpu = td.add_vcpu(host, lps, 0, 0).expect("a vCPU");
    td.finalize(&mut lps[0].seam).expect("finalized");
    let mut stats = RunStats::default();
    let stop = Run {
        host,
        td: &td,
        lp: &mut lps[0].seam,
        on: 0,
        services: &mut Printed::default(),
        stats: &mut stats,
    }
    .run(&mut vcpu);
    assert_eq!(stop, Ok(Stop::Halted { blocked: false }));
    (td, vec![vcpu])
}

/// Accepts 2 MiB, touches them, and halts; then touches them again.
fn large_guest(cpu: &mut ScriptCpu) {
    let large = Gpa::new(4 << 20);
    tdg_mem_page_accept(cpu, GpaMapping::page_2m(large)).expect("accepted");
    let _ = cpu.store(large, b"secret");
    let mut args = TdxModuleArgs {
        r11: 12,
        ..Default::default()
    };
    let _ = tdg_vp_vmcall(cpu, 0xFC00, &mut args);
    let mut bytes = [0; 6];
    let _ = cpu.load(large, &mut bytes);
    assert_eq!(&bytes, b"secret");
}

/// The field's bug: BLOCK meets a held lock; the host goes on to TRACK, blocks then, and the leaf that needs the
/// tracking is refused for good, since no TRACK followed the BLOCK.
#[test]
fn a_block_that_was_busy_and_repeated_after_the_track_is_refused_and_this_library_recovers() {
    for demote in [true, false] {
        let bench = Bench::new(64 * MIB, Guests::scripted(large_guest));
        let rule = "busy:TDH.MEM.RANGE.BLOCK@1".parse().expect("a rule");
        let schedule = Schedule::new([rule], 0);
        let mut lps = bench.lp(&schedule, |_| {});
        let (td, vcpus) = running(&bench, &mut lps);
        let lp = &mut lps[0].seam;
        let (tdr, large) = (td.tdr(), GpaMapping::page_2m(Gpa::new(4 << 20)));
        // A host that does not try again.
        let busy = tdh_mem_range_block(lp, large, tdr).unwrap_err();
        assert!(busy.is(Status::OPERAND_BUSY));
        tdh_mem_track(lp, tdr).expect("a TRACK");
        let unblocked = tdh_mem_page_remove(lp, large, tdr).unwrap_err();
        assert!(unblocked.is(Status::GPA_RANGE_NOT_BLOCKED), "{unblocked}");
        // It blocks now, but the TRACK is behind it.
        tdh_mem_range_block(lp, large, tdr).expect("nobody holds the lock any more");
        let refused = match demote {
            true => {
                let table = bench.host.tdmrs()[0].range.end - 4096;
                let page = x86_arch::Hpa::new(table);
                tdh_mem_page_demote(lp, large, tdr, false, page, [u64::MAX; 3]).unwrap_err()
            }
            false => tdh_mem_page_remove(lp, large, tdr).unwrap_err(),
        };
        assert!(refused.is(Status::TLB_TRACKING_NOT_DONE), "{refused}");
        // This library finds the page in that state and gets it out.
        td.make_shared(
            &bench.host,
            lp,
            Gpa::new(4 << 20),
            if demote { 4096 } else { 2 << 20 },
        )
        .expect("it tracks again");
        assert_eq!(td.stats().demoted, u64::from(demote));
        td.destroy(&bench.host, &mut lps, vcpus).expect("teardown");
        assert_eq!(bench.left(), None);
    }
}

#[test]
fn busy_blocks_and_tracks_do_not_show_in_a_conversion() {
    for rule in [
        "busy:TDH.MEM.RANGE.BLOCK@1+5",
        "busy:TD_EPOCH@1+5",
        "busy:SEPT_TREE@1+20",
        "busy:SEPT_ENTRY@/2",
        "lost:TDH.MEM.TRACK@1",
        "lost:TDH.MEM.RANGE.BLOCK@1",
        "interrupted:TDH.MEM.PAGE.DEMOTE@1+3",
        "TLB_TRACKING_NOT_DONE:TDH.MEM.PAGE.DEMOTE@1+2000",
        "PREVIOUS_TLB_EPOCH_BUSY:TDH.MEM.TRACK@1+10",
        "no-entropy:*@/7",
    ] {
        let bench = Bench::new(64 * MIB, Guests::scripted(large_guest));
        let schedule = Schedule::new([rule.parse().expect("a rule")], 0);
        let mut lps = bench.lp(&schedule, |_| {});
        let (td, vcpus) = running(&bench, &mut lps);
        let lp = &mut lps[0].seam;
        td.make_shared(&bench.host, lp, Gpa::new((4 << 20) + 0x3000), 4096)
            .unwrap_or_else(|why| panic!("{rule}: {why}"));
        assert_eq!(td.stats().demoted, 1);
        td.destroy(&bench.host, &mut lps, vcpus).expect("teardown");
        assert_eq!(bench.left(), None, "{rule}");
        assert!(schedule.counts().all(|(_, _, hits)| hits > 0), "{rule}");
    }
}

#[test]
fn a_page_that_goes_bad_kills_the_td_and_its_teardown_heals_it() {
    let bench = Bench::new(
        64 * MIB,
        Guests::scripted(|cpu| {
            let _ = cpu.load(Gpa::new(0x2000), &mut [0; 8]);
        }),
    );
    // The first page is measured, and so read by the module itself.
    let schedule = Schedule::new(["poison:TDH.MEM.PAGE.ADD@2".parse().expect("a rule")], 0);
    let lived = live(&bench, &mut bench.lp(&schedule, |_| {}));
    assert!(matches!(lived.stop, Ok(Stop::Dead { .. })), "{lived:?}");
    assert_eq!((lived.teardown, bench.left()), (Ok(None), None));
}

/// Uses a page, gives it back to the host, and goes on without looking at it.
fn giving_guest(cpu: &mut ScriptCpu) {
    let page = Gpa::new(0x2000);
    let _ = cpu.load(page, &mut [0; 8]);
    for r11 in [MAP_GPA, 12] {
        let mut args = TdxModuleArgs {
            r11,
            r12: page.raw() | SHARED_BIT,
            r13: 4096,
            ..Default::default()
        };
        let _ = tdg_vp_vmcall(cpu, 0xFC00, &mut args);
    }
}

#[test]
fn a_lost_flush_is_found_by_the_tracking_of_translations() {
    let stale = |rules: &[&str]| {
        let bench = Bench::new(64 * MIB, Guests::scripted(giving_guest));
        let rules = rules.iter().map(|rule| rule.parse().expect("a rule"));
        let schedule = Schedule::new(rules, 0);
        let lived = live(&bench, &mut bench.lp(&schedule, |_| {}));
        assert!(lived.teardown.is_ok(), "{lived:?}");
        assert_eq!(bench.left(), None);
        bench.platform.stale_translations().len()
    };
    assert_eq!(stale(&[]), 0);
    assert_eq!(stale(&["lost-flush:TDH.VP.ENTER"]), 1);
}
