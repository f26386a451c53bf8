//! The stages of a TD's life, each with its line on standard error.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tdvf::{Mrtd, Order};
use tdx_call::SeamcallLp;
use tdx_call::backend::Schedule;
use tdx_devices::{Board, BoardConfig, virtio};
use tdx_host::{Host, HostError, Lp, MemRegion, RunStats, Td, TdConfig, Teardown, Vcpu};
use tdx_platform::{Platform, PlatformMemory};

use super::accounts::{self, Accounts, FaultSummary};
use super::console::Seen;
use super::debugger;
use super::guest::Guest;
use super::input::{self, Input};
use super::options::Args;
use super::post_mortem;
use super::realtime::{self, User};
use super::report::{Report, hex};
use super::schedule::{Clockwork, End, GuestTsc, Running, State};
use super::status::Status;
use super::summary::{self, Pages, ReportSummary, Summary, TeardownSummary, Translator};
use super::td_params::{self, TdParams};
use crate::bring_up::bring_up;
use crate::cli::Failure;

/// The vector that tells a processor to look into a posted-interrupt descriptor; the host library's choice.
const NOTIFICATION: u8 = tdx_host::POSTED_VECTOR;

/// The vector that makes a processor leave its guest and do nothing else (Linux's RESCHEDULE_VECTOR).
const KICK: u8 = 0xFD;

/// What to say when nobody told how --exec's command ended.
const NO_STATUS: &str = "the guest powered off without saying how the command of --exec ended: \
    it needs the initial RAM disk of `cargo xtask guests` and console=ttyS0 in --append, or console=hvc0 with \
    --console-device virtio";

/// What a life is made of.
pub struct Life<'a> {
    pub args: &'a Args,
    pub params: &'a TdParams,
    pub guest: &'a Guest,
    pub platform: &'a Arc<Platform>,
    pub schedule: &'a Schedule,
    pub console: Box<dyn Write + Send>,
    /// What is on the PCI bus.
    pub devices: Vec<Box<dyn virtio::Device>>,
    pub seen: Arc<Mutex<Seen>>,
    pub status: Status,
    pub started: Instant,
}

impl Life<'_> {
    /// Brings the module up, builds the TD, runs it to its end and takes it down.
    pub fn run<L: SeamcallLp + Send>(mut self, mut lps: Vec<Lp<L>>) -> Result<Summary, Failure> {
        let console = std::mem::replace(&mut self.console, Box::new(std::io::sink()));
        let host = self.host(&mut lps)?;
        let module = host.info();
        let module = format!("TDX {}.{}.{:02}", module.major, module.minor, module.update);
        let (free_pages, free_hkids) = (host.free_pages(), host.free_hkids());
        self.say(format_args!(
            "module    {module} is ready: {} processor(s), {} TDMR(s), {free_pages} pages, {free_hkids} key IDs",
            lps.len(),
            host.tdmrs().len(),
        ));

        let (td, mut vcpus, mrtd) = self.build(&host, &mut lps)?;
        let (offset, multiplier) = td.tsc(&mut lps[0].seam).map_err(dead("reading the TSC"))?;
        let tsc = GuestTsc { offset, multiplier };
        let hardware = Arc::clone(self.platform.hardware());
        let clock = Arc::clone(&hardware);
        let seen = Arc::clone(&self.seen);
        let args = self.args;
        let started = self.started;
        let mut board = Board::new(BoardConfig {
            vcpus: args.cpus.into(),
            memory: args.memory.0,
            tsc_khz: self.params.tsc_khz.into(),
            clock: Arc::new(move || tsc.of_host(clock.tsc())),
            console,
            firmware: super::firmware::devices(args, self.params.tsc_khz.into())?,
            devices: std::mem::take(&mut self.devices),
        });
        let mut stats = RunStats::default();
        let first_tick = hardware.tsc();
        let mut status = self.status.clone();
        let mut input = match args.console_is_stdio() {
            true => Input::of_stdin(),
            false => Input::Nothing,
        };
        if input.is_terminal() {
            self.say(format_args!("console   {}", input::HINT));
        }
        let over = || {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.panic_over
        };
        let end = if args.realtime {
            let user = User {
                until: super::deadline(args, started),
                over: &over,
                input: &mut input,
                status: &mut status,
            };
            let clockwork = &*hardware;
            realtime::run(
                &host, &td, &mut lps, &mut vcpus, &mut board, clockwork, tsc, user,
            )
            .map(|(end, counted)| {
                stats = counted;
                end
            })
            .map_err(dead("running the TD"))
        } else {
            let mut running = Running {
                host: &host,
                td: &td,
                states: vec![State::Ready; vcpus.len()],
                lps: &mut lps,
                vcpus: &mut vcpus,
                first: 0,
                board: &mut board,
                clockwork: &*hardware,
                tsc,
                stats: &mut stats,
                until: super::deadline(args, started),
                over: &over,
                input: &mut input,
                status: &mut status,
            };
            match args.debugging() {
                None => running.run().map_err(dead("running the TD")),
                Some(debugging) => debugger::run(&mut running, &debugging),
            }
        };
        for (number, name, why) in board.faults() {
            self.say(format_args!(
                "{name}    PCI device {number} stopped at what its driver did: {why}"
            ));
        }
        drop(board);
        // The terminal is the user's again before there is more to say.
        drop(input);
        status.end();
        if self.params.is_debug()
            && let Ok(end) = &end
            && let Some(vcpu) = end.vcpu().and_then(|index| vcpus.get(index))
            && let Some(lp) = vcpu.associated_lp().and_then(|on| lps.get_mut(on))
        {
            for line in post_mortem::lines(&host, &td, vcpu, &mut lp.seam) {
                self.say(format_args!("          {line}"));
            }
        }
        let ticks = hardware.tsc() - first_tick;
        let pages = Pages::new(td.stats());
        for (index, _) in lps.iter().enumerate() {
            // The host takes what still waits for its processors, as its own handlers would.
            while hardware.acknowledge_interrupt(index as u32).is_some() {}
        }
        let broken = accounts::broken(self.platform);
        let teardown = td.destroy(&host, &mut lps, vcpus);
        let leak = teardown.as_ref().err().map(HostError::to_string);
        let accounts = Accounts::of(self.platform, broken, leak);
        let teardown = match (end.is_err(), teardown) {
            (true, torn) => {
                // What ended the TD is the failure; what it left behind is told beside it.
                self.say_accounts(&accounts, torn.ok().as_ref());
                Teardown::default()
            }
            (false, Ok(teardown)) => teardown,
            (false, Err(leak)) => {
                self.say_accounts(&accounts, None);
                return Err(dead("taking the TD down")(leak));
            }
        };
        let end = end?;

        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lost_pages = free_pages as i64 - host.free_pages() as i64;
        let lost_hkids = free_hkids as i64 - host.free_hkids() as i64;
        let report = seen
            .tdreport()
            .map(|bytes| (bytes, self.platform.verifies(bytes)))
            .map(|(bytes, mac)| ReportSummary::new(Report(bytes), mac, &mrtd, self.guest));
        let faults = accounts::faults(self.schedule);
        let (name, mut exit_code, mut failure) = summary::verdict(&end, &seen, args.timeout);
        if let End::TripleFault { vcpu } = end
            && let Some(reason) = self.platform.unread_ve()
        {
            failure = Some(summary::died_at_a_ve(vcpu, reason, seen.bytes == 0));
        }
        if exit_code == 0 {
            if args.exec.is_some() && seen.command_status.is_none() {
                (exit_code, failure) = (2, Some(NO_STATUS.to_owned()));
            }
            if let Some(fault) = report.as_ref().and_then(ReportSummary::fault) {
                (exit_code, failure) = (6, Some(fault.to_owned()));
            }
            if lost_pages != 0 || lost_hkids != 0 {
                let what = format!("{lost_pages} pages and {lost_hkids} key IDs did not come back");
                (exit_code, failure) = (70, Some(what));
            }
            if !accounts.is_clean() {
                // With faults asked for it is their doing, not a bug of ours.
                let asked = faults.iter().any(|fault| fault.hits > 0);
                (exit_code, failure) = (if asked { 6 } else { 70 }, Some(accounts.line()));
            }
        }
        let summary = Summary {
            end: name.to_owned(),
            exit_code,
            failure,
            guest: self.guest.name.clone(),
            module,
            mrtd: hex(&mrtd),
            report,
            ticks,
            instructions: self.platform.retired(),
            wall_ms: started.elapsed().as_millis() as u64,
            marks: seen.marks.clone(),
            translator: self.platform.translated().map(Translator::new),
            entries: stats.entries,
            exits: summary::exits(&stats),
            tdvmcalls: summary::tdvmcalls(&stats),
            pages,
            teardown: TeardownSummary::new(&teardown, lost_pages, lost_hkids),
            faults,
            accounts,
        };
        if !args.quiet {
            self_report(&summary);
        }
        Ok(summary)
    }

    /// Creates the TD, so that the module has its say on the parameters, and takes it down again.
    pub fn dry_run<L: SeamcallLp>(self, mut lps: Vec<Lp<L>>) -> Result<(), Failure> {
        let host = self.host(&mut lps)?;
        let td = self.create(&host, &mut lps)?;
        td.destroy(&host, &mut lps, Vec::new())
            .map_err(dead("taking the TD down"))?;
        Ok(())
    }

    fn host<L: SeamcallLp>(&self, lps: &mut [Lp<L>]) -> Result<Host<PlatformMemory>, Failure> {
        bring_up(self.platform, lps).map_err(dead("bringing the module up"))
    }

    /// TD, memory, vCPUs, measurement.
    fn build<L: SeamcallLp, M: tdx_call::HostMemory>(
        &self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
    ) -> Result<(Td, Vec<Vcpu>, [u8; 48]), Failure> {
        let td = self.create(host, lps)?;
        self.say(format_args!(
            "TD        created at {} with key ID {}, {}",
            td.tdr(),
            td.hkid(),
            if self.params.is_debug() {
                "DEBUG"
            } else {
                "production"
            }
        ));
        let image = self.guest.image()?;
        let mut vcpus = Vec::new();
        if let Err(why) = self.load(host, lps, &td, &image, &mut vcpus) {
            let torn = td.destroy(host, lps, vcpus);
            let leak = torn.as_ref().err().map(HostError::to_string);
            let accounts = Accounts::of(self.platform, Vec::new(), leak);
            self.say_accounts(&accounts, torn.ok().as_ref());
            return Err(dead("building the TD")(why));
        }
        let mut mrtd = Mrtd::new();
        let hob = &self.guest.hob;
        let kind = tdvf::SectionType::TD_HOB;
        image
            .plan_with(Order::PageByPage, |section| match section.kind == kind {
                true => hob,
                false => image.data(section),
            })
            .for_each(|step| mrtd.step(&step));
        for (gpa, bytes) in &self.guest.memory {
            for offset in (0..bytes.len() as u64).step_by(4096) {
                mrtd.add_page(x86_arch::Gpa::new(gpa.raw() + offset));
            }
        }
        let mrtd = mrtd.finish();
        self.say(format_args!("MRTD      {}", hex(&mrtd)));
        Ok((td, vcpus, mrtd))
    }

    fn create<L: SeamcallLp, M: tdx_call::HostMemory>(
        &self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
    ) -> Result<Td, Failure> {
        let config = TdConfig {
            max_vcpus: self.args.cpus,
            // Debian's OVMF of 2022 passes RBP in its TDVMCALLs, which NO_RBP_MOD forbids.
            no_rbp_mod: host.info().no_rbp_mod() && self.args.firmware.is_none(),
            ..self.params.config(host.info())?
        }
        .with_cores(host.info());
        let hardware = Arc::clone(self.platform.hardware());
        let threads = match self.args.realtime {
            true => usize::from(self.args.cpus),
            // One thread runs all vCPUs: whoever asks for a kick is the only one inside the TD, and has left it.
            false => 0,
        };
        let kick = move || (0..threads).for_each(|lp| hardware.kick(lp));
        Td::create(host, lps, config, kick).map_err(|why| match why {
            HostError::Setting { .. } => Failure::input(td_params::refused(&why)),
            why => Failure::with_code(6, format!("creating the TD: {why}")),
        })
    }

    fn load<L: SeamcallLp, M: tdx_call::HostMemory>(
        &self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        td: &Td,
        image: &tdvf::Image<'_>,
        vcpus: &mut Vec<Vcpu>,
    ) -> Result<(), HostError> {
        for ram in &self.guest.ram {
            td.add_ram(ram.clone())?;
        }
        let hob = &self.guest.hob;
        let hob_section = image.section_of(tdvf::SectionType::TD_HOB);
        let contents =
            |section: &tdvf::Section| (Some(*section) == hob_section).then_some(&hob[..]);
        td.load_image(host, &mut lps[0].seam, image, contents, |_, _| {})?;
        for (gpa, bytes) in &self.guest.memory {
            let mut region = MemRegion::new(*gpa, bytes.len() as u64, bytes, false)?;
            td.init_mem_region(host, &mut lps[0].seam, &mut region, u64::MAX)?;
        }
        let initial_rcx = hob_section.map_or(0, |section| section.memory_address);
        for on in 0..usize::from(self.args.cpus) {
            vcpus.push(td.add_vcpu(host, lps, on, initial_rcx)?);
        }
        td.finalize(&mut lps[0].seam)?;
        self.say(format_args!(
            "memory    {} pages added from {}, {} vCPU(s), finalized",
            td.stats().added,
            self.guest.name,
            vcpus.len()
        ));
        Ok(())
    }

    /// What is left of a TD that ended in a failure of its host's, and what the faults came to.
    fn say_accounts(&self, accounts: &Accounts, teardown: Option<&Teardown>) {
        if let Some(teardown) = teardown {
            self.say(format_args!(
                "teardown  {} pages reclaimed",
                teardown.reclaimed
            ));
        }
        for FaultSummary { rule, calls, hits } in accounts::faults(self.schedule) {
            self.say(format_args!("fault     {rule}: {hits} of {calls} calls"));
        }
        self.say(format_args!("audit     {}", accounts.line()));
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        if !self.args.quiet {
            eprintln!("swtdx: {line}");
        }
    }
}

/// What there is to say at the end.
fn self_report(summary: &Summary) {
    let list = |counts: &std::collections::BTreeMap<String, u64>| {
        let named: Vec<String> = counts
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        named.join(", ")
    };
    eprintln!(
        "swtdx: end       {}: {} entries, {} instructions, {} ticks, {} ms",
        summary.end, summary.entries, summary.instructions, summary.ticks, summary.wall_ms
    );
    eprintln!("swtdx: exits     {}", list(&summary.exits));
    eprintln!("swtdx: tdvmcalls {}", list(&summary.tdvmcalls));
    let pages = &summary.pages;
    eprintln!(
        "swtdx: pages     {} added, {} given on demand ({} of 2 MiB), {} taken back, {} shared",
        pages.added, pages.augmented, pages.large, pages.removed, pages.shared
    );
    if let Some(report) = &summary.report {
        let verdict = report
            .fault()
            .unwrap_or("MAC, hashes and MRTD are as expected");
        eprintln!("swtdx: TDREPORT  {verdict}");
    }
    let teardown = &summary.teardown;
    if let Some(why) = &teardown.hindered {
        eprintln!("swtdx: teardown  began again after {why}");
    }
    eprintln!(
        "swtdx: teardown  {} pages reclaimed (private {}, Secure EPT {}), {} lost; {} key IDs lost",
        teardown.reclaimed,
        teardown.private,
        teardown.sept,
        teardown.lost_pages,
        teardown.lost_hkids
    );
    for fault in &summary.faults {
        let FaultSummary { rule, calls, hits } = fault;
        eprintln!("swtdx: fault     {rule}: {hits} of {calls} calls");
    }
    eprintln!("swtdx: audit     {}", summary.accounts.line());
}

/// A host-side failure as the program reports it: the TD or the module is dead.
fn dead(doing: &'static str) -> impl Fn(HostError) -> Failure {
    move |why| Failure::with_code(6, format!("{doing}: {why}"))
}

impl Clockwork for tdx_machine::Machine {
    fn now(&self) -> u64 {
        self.tsc()
    }
    fn seen(&self) -> u64 {
        self.time()
    }
    fn duration(&self, ticks: u64) -> Duration {
        let hz = u128::from(self.config().tsc_hz.max(1));
        let nanos = u128::from(ticks) * 1_000_000_000 / hz;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
    fn ticks(&self, time: Duration) -> u64 {
        let hz = u128::from(self.config().tsc_hz);
        u64::try_from(time.as_nanos() * hz / 1_000_000_000).unwrap_or(u64::MAX)
    }
    fn sleep_until(&self, tsc: u64) {
        let now = self.tsc();
        self.advance(tsc.saturating_sub(now));
    }
    fn arm(&self, lp: usize, tsc: u64) {
        self.arm_timer(lp as u32, tsc);
    }
    fn notify(&self, lp: usize) {
        self.interrupt(lp as u32, NOTIFICATION);
    }
    fn kick(&self, lp: usize) {
        self.interrupt(lp as u32, KICK);
    }
}
