//! What a run came to, for people (lines on standard error) and for scripts (`--json`).

use std::collections::BTreeMap;

use serde::Serialize;
use tdx_host::tdvmcall::SubFunction;
use tdx_host::{RunStats, TdStats, Teardown};
use tdx_platform::Statistics;
use x86_arch::ExitReason;

use super::accounts::{Accounts, FaultSummary};
use super::console::{Mark, Seen};
use super::guest::Guest;
use super::report::{Report, hex};
use super::schedule::End;

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub end: String,
    pub exit_code: u8,
    /// The one line that says why the exit code is not 0.
    pub failure: Option<String>,
    pub guest: String,
    pub module: String,
    pub mrtd: String,
    pub report: Option<ReportSummary>,
    /// Host TSC ticks from the first entry to the end.
    pub ticks: u64,
    /// Instructions that the guest completed.
    pub instructions: u64,
    pub wall_ms: u64,
    pub marks: Vec<Mark>,
    /// Where an engine translated the guest's code.
    pub translator: Option<Translator>,
    pub entries: u64,
    pub exits: BTreeMap<String, u64>,
    pub tdvmcalls: BTreeMap<String, u64>,
    pub pages: Pages,
    pub teardown: TeardownSummary,
    pub faults: Vec<FaultSummary>,
    pub accounts: Accounts,
}

/// What the TDREPORT said that the guest printed.
#[derive(Clone, Debug, Serialize)]
pub struct ReportSummary {
    pub mrtd: String,
    pub rtmrs: [String; 4],
    pub attributes: String,
    pub xfam: String,
    /// Its MAC is this machine's.
    pub mac_holds: bool,
    /// Its two hashes are those of what they cover.
    pub hashes_hold: bool,
    /// MRTD is what the host expected when it built the TD.
    pub mrtd_expected: bool,
    /// The same for the RTMRs, where the host knows them.
    pub rtmrs_expected: Option<bool>,
}

/// What the translator came to, on all processors.
#[derive(Clone, Debug, Serialize)]
pub struct Translator {
    /// Blocks translated; one that was translated again counts again.
    pub blocks: u64,
    /// Bytes of translated code.
    pub code_bytes: u64,
    /// Bytes of decoded code, soft TLB, jump cache, and of the lists that find them.
    pub table_bytes: u64,
    /// How often a processor dropped all translated code.
    pub drops: u64,
}

/// Pages of 4 KiB.
#[derive(Clone, Debug, Serialize)]
pub struct Pages {
    pub added: u64,
    pub augmented: u64,
    pub large: u64,
    pub removed: u64,
    pub demoted: u64,
    pub shared: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct TeardownSummary {
    pub reclaimed: u64,
    pub private: u64,
    pub sept: u64,
    pub host_pages: u64,
    pub cache_writebacks: u32,
    /// The failure that made teardown begin again.
    pub hindered: Option<String>,
    /// Pages and key IDs that did not come back.
    pub lost_pages: i64,
    pub lost_hkids: i64,
}

impl ReportSummary {
    pub fn new(report: Report<'_>, mac_holds: bool, expected: &[u8; 48], guest: &Guest) -> Self {
        let known: Vec<bool> = guest
            .rtmrs
            .iter()
            .enumerate()
            .filter_map(|(i, rtmr)| rtmr.map(|rtmr| rtmr == report.rtmr(i)))
            .collect();
        Self {
            mrtd: hex(&report.mrtd()),
            rtmrs: [0, 1, 2, 3].map(|i| hex(&report.rtmr(i))),
            attributes: format!("{:#x}", report.attributes()),
            xfam: format!("{:#x}", report.xfam()),
            mac_holds,
            hashes_hold: report.hashes_hold(),
            mrtd_expected: report.mrtd() == *expected,
            rtmrs_expected: (!known.is_empty()).then(|| known.iter().all(|&same| same)),
        }
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        if !self.mac_holds {
            return Some("the TDREPORT's MAC is not this machine's");
        }
        if !self.hashes_hold {
            return Some("the TDREPORT's hashes do not cover its contents");
        }
        if !self.mrtd_expected {
            return Some("the TDREPORT's MRTD is not what the host built");
        }
        if self.rtmrs_expected == Some(false) {
            return Some("the TDREPORT's RTMRs are not what the firmware measured");
        }
        None
    }
}

impl Translator {
    pub fn new(statistics: Statistics) -> Self {
        Self {
            blocks: statistics.blocks,
            code_bytes: statistics.code_bytes,
            table_bytes: statistics.table_bytes,
            drops: statistics.drops,
        }
    }
}

impl Pages {
    pub fn new(stats: TdStats) -> Self {
        Self {
            added: stats.added,
            augmented: stats.augmented,
            large: stats.large,
            removed: stats.removed,
            demoted: stats.demoted,
            shared: stats.shared,
        }
    }
}

impl TeardownSummary {
    pub fn new(report: &Teardown, lost_pages: i64, lost_hkids: i64) -> Self {
        Self {
            reclaimed: report.reclaimed,
            private: report.private,
            sept: report.sept,
            host_pages: report.host_pages,
            cache_writebacks: report.cache_writebacks,
            hindered: report.hindered.as_ref().map(ToString::to_string),
            lost_pages,
            lost_hkids,
        }
    }
}

/// Exits by name.
pub fn exits(stats: &RunStats) -> BTreeMap<String, u64> {
    let named = stats.exits.iter();
    named
        .map(|(&reason, &count)| (ExitReason(reason).to_string(), count))
        .collect()
}

/// TDVMCALLs by name.
pub fn tdvmcalls(stats: &RunStats) -> BTreeMap<String, u64> {
    let name = |function: SubFunction| match function.0 {
        0 => "hypercall".to_owned(),
        _ => function.to_string(),
    };
    stats
        .named_tdvmcalls()
        .map(|(f, count)| (name(f), count))
        .collect()
}

/// An end in words, for a debugger's user.
pub fn words(end: &End) -> String {
    let (name, _, why) = verdict(end, &Seen::default(), None);
    why.unwrap_or_else(|| name.to_owned())
}

/// A triple fault on the way into the guest's handler of a #VE.
pub fn died_at_a_ve(vcpu: u32, reason: ExitReason, silent: bool) -> String {
    let why = match silent {
        true => "a kernel without TDX guest support (CONFIG_INTEL_TDX_GUEST) dies so",
        false => "its handler cannot be reached",
    };
    format!("vCPU {vcpu}: triple fault at a #VE ({reason}) that the guest cannot take: {why}")
}

/// How an end is called, its exit status, and what is to be said about it.
pub fn verdict(end: &End, seen: &Seen, seconds: Option<u64>) -> (&'static str, u8, Option<String>) {
    let last = || {
        let lines: Vec<&str> = seen.last.iter().map(String::as_str).collect();
        match lines.is_empty() {
            true => "; it printed nothing".to_owned(),
            false => format!("; its last lines:\n  {}", lines.join("\n  ")),
        }
    };
    let panic = seen.panic.as_deref();
    match end {
        End::PoweredOff => match seen.command_status {
            Some(status) if status != 0 => (
                "command failed",
                2,
                Some(format!("the guest's command ended with status {status}")),
            ),
            _ => ("powered off", 0, None),
        },
        End::Reset if panic.is_none() => (
            "reset",
            3,
            Some(format!(
                "the guest asked for a reset, which a TD cannot have{}",
                last()
            )),
        ),
        End::Reset | End::Hang | End::Timeout | End::Panicked if panic.is_some() => (
            "panic",
            3,
            panic.map(|line| format!("the guest panicked: {line}")),
        ),
        End::Reset => ("reset", 3, None),
        End::Panicked => ("panic", 3, None),
        End::FatalError(report) => ("fatal error", 3, Some(report.to_string())),
        End::TripleFault { vcpu } => (
            "triple fault",
            4,
            Some(format!("vCPU {vcpu}: triple fault{}", last())),
        ),
        End::MemoryFault { vcpu, fault } => (
            "memory fault",
            3,
            Some(format!("vCPU {vcpu}: {fault}{}", last())),
        ),
        End::Dead { vcpu, rax } => (
            "dead",
            6,
            Some(format!(
                "vCPU {vcpu}: the module ended the TD, RAX {rax:#018x}{}",
                last()
            )),
        ),
        End::Unexpected { vcpu, reason } => (
            "unexpected exit",
            70,
            Some(format!(
                "vCPU {vcpu}: no host expects the exit {reason}{}",
                last()
            )),
        ),
        End::Debug { vcpu, reason, .. } => (
            "debug stop",
            70,
            Some(format!(
                "vCPU {vcpu} stopped for a debugger ({reason}), and none is there{}",
                last()
            )),
        ),
        End::Quit => ("ended by the user", 0, None),
        End::Killed => ("killed", 0, Some("the debugger ended the TD".to_owned())),
        End::Hang => (
            "hang",
            5,
            Some(format!(
                "every vCPU waits for an interrupt that nothing will send{}",
                last()
            )),
        ),
        End::Timeout => (
            "timeout",
            5,
            Some(format!(
                "no end after {} s{}",
                seconds.unwrap_or_default(),
                last()
            )),
        ),
    }
}
