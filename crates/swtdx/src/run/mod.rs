//! `swtdx run`: the whole life of a TD, from a module just loaded to the last page given back.

mod accounts;
mod console;
mod debugger;
mod devices;
mod firmware;
mod guest;
mod input;
mod life;
mod options;
mod post_mortem;
mod realtime;
mod report;
mod schedule;
mod scripted;
mod status;
mod summary;
mod td_params;
mod terminal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coco_regs::{ExitKind, GprFile};
use conformance::Recorder;
use conformance::show::Row;
use tdx_abi::HostLeaf;
use tdx_call::backend::{Faulty, Recorded, Schedule, Traced};
use tdx_call::{SeamcallLp, TdxModuleArgs};
use tdx_host::Lp;
use tdx_platform::{Attachments, Clock, Guests, Platform, PlatformConfig};
use x86_arch::Gpr;

use self::accounts::Accounts;
use self::console::Console;
use self::guest::Guest;
use self::life::Life;
pub use self::options::{Args, MAX_CPUS, Size};
use self::status::Status;
use self::summary::Summary;
use self::td_params::TdParams;
pub use self::td_params::fuzz_td_params;
use crate::cli::Failure;

/// Host memory beside what the guest may touch: PAMT, Secure EPT, control pages.
const HOST_MEMORY: u64 = 512 << 20;

pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let params = TdParams::new(&args.td, args.debug_td)?;
    if args.gdb.is_some() && !params.is_debug() {
        return Err(Failure::input(
            "a production TD cannot be debugged: the module shows nobody its registers and memory; build it with --debug-td",
        ));
    }
    let guest = Guest::new(args)?;
    let mut config = PlatformConfig::new(1, args.cpus.into(), host_memory(args.memory.0));
    config.machine.seed = args.seed;
    if args.realtime {
        config.machine.clock = Clock::Host;
    }
    config.profile = params.module()?.clone();
    let guests = match args.scripted {
        true => Guests::scripted(scripted::guest),
        false => Guests::engine_of(args.engine, args.cpus.into()),
    };
    let recorder = match &args.record {
        Some(path) => Some(record(path, &config, &guest.name)?),
        None => None,
    };
    let attachments = Attachments {
        observer: recorder.clone().map(|recorder| Box::new(recorder) as _),
        ..Attachments::default()
    };
    let platform = Platform::attached(config, guests, attachments);
    let to = match args.console_is_stdio() {
        // The file itself, not the buffer before it: a prompt has no newline, and guests print from any thread.
        true if args.json => File::from(io::stderr().as_fd().try_clone_to_owned()?),
        true => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        false => create(&args.console)?,
    };
    if let (Some(why), false) = (platform.refused(), args.quiet) {
        eprintln!(
            "swtdx: engine    the interpreter instead of the {}: {why}",
            args.engine
        );
    }
    let traced_here = args.trace.as_deref() == Some(Path::new("-"));
    let status = Status::new(!args.quiet && !traced_here && args.gdb.is_none());
    let counted = Arc::clone(&platform);
    let completed = Box::new(move || counted.retired());
    let (console, seen) = Console::new(to, status.clone(), completed);
    let (console, devices) = devices::on_the_bus(args, Box::new(console))?;
    let schedule = schedule(args)?;
    let lps = (0..).zip(platform.lps());
    let lps = lps.map(|(lp, seam)| Faulty::on(seam, &schedule, platform.disturber(lp)));
    let life = Life {
        args,
        params: &params,
        guest: &guest,
        platform: &platform,
        schedule: &schedule,
        console,
        devices,
        seen: Arc::clone(&seen),
        status,
        started: Instant::now(),
    };
    if args.dry_run {
        life.dry_run(lps.map(on_package_0).collect())?;
        let text = match args.json {
            true => serde_json::to_string_pretty(&params).map_err(io::Error::from)?,
            false => toml::to_string(&params).map_err(io::Error::other)?,
        };
        writeln!(out, "{}", text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let lived = match trace_sink(args)? {
        None => life.run(lps.map(on_package_0).collect()),
        Some(sink) => life.run(
            (0..)
                .zip(lps)
                .map(|(lp, seam)| on_package_0(Traced::new(seam, trace(lp, sink.clone()))))
                .collect(),
        ),
    };
    if let (Some(recorder), Some(path)) = (&recorder, &args.record) {
        let path = path.display();
        let recorded = recorder.finish();
        let recorded = recorded.map_err(|why| Failure::input(format_args!("{path}: {why}")))?;
        if !args.quiet {
            let conformance::Recorded { lines, bytes } = recorded;
            eprintln!("swtdx: record    {lines} lines, {bytes} bytes in {path}");
        }
    }
    let summary = match lived {
        Ok(summary) => differing(summary, &platform),
        Err(failure) if args.json => {
            let never = NeverRan {
                exit_code: failure.code(),
                failure: failure.to_string(),
                faults: accounts::faults(&schedule),
                accounts: Accounts::of(&platform, Vec::new(), None),
            };
            serde_json::to_writer_pretty(&mut *out, &never).map_err(io::Error::from)?;
            writeln!(out)?;
            return Err(failure);
        }
        Err(failure) => return Err(failure),
    };
    if let (Some(path), Some(report)) = (
        &args.report,
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tdreport(),
    ) {
        create(path)?.write_all(report)?;
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &summary).map_err(io::Error::from)?;
        writeln!(out)?;
    }
    if let Some(why) = &summary.failure {
        eprintln!("swtdx: {why}");
    }
    Ok(ExitCode::from(summary.exit_code))
}

/// A difference between the engines is what the run is about, whatever became of the guest that met it.
fn differing(mut summary: Summary, platform: &Platform) -> Summary {
    if let Some(difference) = platform.difference() {
        summary.failure = Some(differ(&difference));
        summary.exit_code = 70;
    }
    summary
}

/// What is said of a difference that lockstep found.
pub(crate) fn differ(difference: &str) -> String {
    let difference = difference.trim_end();
    format!("lockstep: translated code and the interpreter differ\n{difference}")
}

/// What --json says of a TD that did not get as far as running, or that died in the host's hands.
#[derive(serde::Serialize)]
struct NeverRan {
    exit_code: u8,
    failure: String,
    faults: Vec<accounts::FaultSummary>,
    accounts: Accounts,
}

/// The rules of --fault.
fn schedule(args: &Args) -> Result<Schedule, Failure> {
    const MAX: usize = 16;
    match args.fault.len() {
        0..=MAX => Ok(Schedule::new(args.fault.iter().copied(), args.seed)),
        many => Err(Failure::input(format!(
            "--fault is given {many} times; {MAX} are possible"
        ))),
    }
}

fn on_package_0<L: SeamcallLp>(seam: L) -> Lp<L> {
    Lp { seam, package: 0 }
}

/// RAM of the host: sparse, so that a page that nobody writes costs nothing.
fn host_memory(guest: u64) -> u64 {
    (guest + guest / 64 + HOST_MEMORY).next_multiple_of(1 << 30)
}

/// Where the lines of all processors go.
type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

/// Writes a line for each call on processor `lp`. A line that cannot be written is lost; the run goes on.
fn trace(lp: u32, sink: Sink) -> impl FnMut(&Recorded) {
    move |call| {
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(sink, "{}", row(lp, call));
    }
}

/// A call as `swtdx trace` shows it.
fn row(lp: u32, call: &Recorded) -> Row {
    let mut row = Row {
        lp: Some(lp),
        ..Row::default()
    };
    let mut before = GprFile::default();
    let mut after;
    let (entered, result) = match *call {
        Recorded::Seamcall {
            leaf,
            input,
            output,
            result,
            ..
        } => {
            before[Gpr::Rax] = leaf.0;
            after = before;
            let (input, output) = (input.to_array(), output.to_array());
            for (n, reg) in TdxModuleArgs::REGS.into_iter().enumerate() {
                (before[reg], after[reg]) = (input[n], output[n]);
            }
            (false, result)
        }
        Recorded::VpEnter {
            tdvpr,
            loaded,
            words,
            stored,
            result,
            ..
        } => {
            before = loaded;
            (before[Gpr::Rax], before[Gpr::Rcx]) = (HostLeaf::VP_ENTER.word().0, tdvpr.0);
            after = stored;
            let values = [words.rcx, words.rdx, words.r8, words.r9];
            let regs = [Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9];
            for (reg, value) in regs.into_iter().zip(values) {
                after[reg] = value;
            }
            (words.kind() != ExitKind::NotEntered, result)
        }
    };
    match result {
        Ok(status) => {
            after[Gpr::Rax] = status.raw();
            row.describe_call(&before, Some(&after), entered);
        }
        Err(why) => {
            row.describe_call(&before, None, false);
            row.outcome = why.to_string();
        }
    }
    row
}

fn trace_sink(args: &Args) -> Result<Option<Sink>, Failure> {
    let Some(path) = &args.trace else {
        return Ok(None);
    };
    let out: Box<dyn Write + Send> = match path.to_str() {
        Some("-") => Box::new(io::stderr()),
        _ => Box::new(io::BufWriter::new(create(path)?)),
    };
    Ok(Some(Arc::new(Mutex::new(out))))
}

/// Begins a recording of every call and guest act.
fn record(path: &Path, config: &PlatformConfig, guest: &str) -> Result<Arc<Recorder>, Failure> {
    let out = Box::new(io::BufWriter::with_capacity(1 << 20, create(path)?));
    let about = format!("a run of {guest}");
    let recorder = Recorder::start(out, config, &about);
    let recorder =
        recorder.map_err(|why| Failure::input(format_args!("{}: {why}", path.display())))?;
    Ok(Arc::new(recorder))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|why| Failure::input(format!("{}: {why}", path.display())))
}

/// The end of the wall time that the user allows.
fn deadline(args: &Args, started: Instant) -> Option<Instant> {
    args.timeout
        .map(|seconds| started + Duration::from_secs(seconds))
}
