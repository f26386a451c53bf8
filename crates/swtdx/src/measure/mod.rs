//! `swtdx measure`: MRTD and RTMRs of a TD before it is launched, and why a report differs from them.

mod authenticode;
mod diff;
mod events;
mod log;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;
use tdvf::{EventLog, Image, MetadataSource, Mrtd, Order, Section, Step};
use tdx_abi::Sha384;
use tdx_devices::direct_boot::{self, InitialMemory, Payload};
use x86_arch::Gpa;

use crate::cli::Failure;
use crate::explain::report;
use crate::run::{MAX_CPUS, Size};
use events::{Edk2, Event, Registers};

const HELP: &str = "\
MRTD covers the firmware image as its TDVF metadata says. RTMR 1 and 2 are given when a kernel is: as EDK II
firmware and Linux's EFI stub measure them when the VMM hands the kernel over (QEMU -kernel); a VMM that changes the
kernel's header on the way (QEMU does) changes RTMR 1. RTMR 0 covers what the VMM makes (TD HOB, ACPI tables) and is
not predicted. Without FIRMWARE it is the TD of swtdx run --kernel, and all registers are given. RTMR 3 stays zero.

Examples:
  swtdx measure OVMF.fd
  swtdx measure OVMF.fd --order two-passes --expect 307c9a6831bdd6e6
  swtdx measure OVMF.fd --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0' --events
  swtdx measure OVMF.fd --diff tdreport.bin
  swtdx measure OVMF.fd --kernel vmlinuz --append console=ttyS0 --log ccel.bin --diff tdreport.bin
  swtdx measure --kernel vmlinuz --initrd initrd --cpus 2 --memory 1G

Exit status: 0 measured (and as expected), 4 a register differs from --expect, --diff or --log, 1 on wrong input.";

/// Exit status when a register is not the expected one.
const DIFFERS: u8 = 4;
/// Larger firmware does not fit below 4 GiB.
const MAX_FIRMWARE: u64 = 64 << 20;
/// Kernels and initrds beyond this are mistakes.
const MAX_PAYLOAD: u64 = 4 << 30;

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// TDVF image; without it, the project's direct-boot firmware
    #[arg(required_unless_present = "kernel")]
    firmware: Option<PathBuf>,
    /// Kernel that the VMM hands to the firmware
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "STR", requires = "kernel", default_value = "")]
    append: String,
    /// Virtual processors of the TD of swtdx run, which its ACPI tables list
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_CPUS))]
    cpus: u16,
    /// Memory of the TD of swtdx run, which its TD HOB lists
    #[arg(long, value_name = "SIZE", default_value_t = Size(256 << 20))]
    memory: Size,
    /// In which order the VMM adds and measures pages
    #[arg(long, value_enum, default_value_t = OrderArg::PageByPage)]
    order: OrderArg,
    /// Which EDK II the firmware was built from
    #[arg(long, value_enum, default_value_t = Edk2::Stable202411, requires = "kernel")]
    edk2: Edk2,
    /// Require MRTD, or REGISTER (mrtd, rtmr1, …), to begin with HEX
    #[arg(long, value_name = "[REGISTER=]HEX")]
    expect: Vec<String>,
    /// Compare with a TDREPORT or quote and say what differs
    #[arg(long, value_name = "REPORT")]
    diff: Option<PathBuf>,
    /// Replay the firmware's event log (/sys/firmware/acpi/tables/data/CCEL in Linux) and compare it with the
    /// prediction, and with --diff's report
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print the events behind the registers, and those of --log
    #[arg(long)]
    events: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OrderArg {
    /// Each page is measured right after it is added (QEMU 9 and later)
    PageByPage,
    /// All pages of a section are added, then measured (QEMU 8)
    TwoPasses,
}

impl From<OrderArg> for Order {
    fn from(order: OrderArg) -> Order {
        match order {
            OrderArg::PageByPage => Order::PageByPage,
            OrderArg::TwoPasses => Order::TwoPasses,
        }
    }
}

/// Everything the command prints.
#[derive(Serialize)]
struct Measured {
    firmware: String,
    bytes: usize,
    metadata: &'static str,
    sections: Vec<SectionRow>,
    order: &'static str,
    mrtd: String,
    rtmr: [Option<String>; 4],
    events: Vec<Event>,
    log: Vec<log::Row>,
    verdicts: Vec<diff::Verdict>,
}

#[derive(Serialize)]
struct SectionRow {
    index: u32,
    kind: String,
    address: u64,
    size: u64,
    data_offset: u32,
    data_size: u32,
    loading: &'static str,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let (name, firmware) = match &args.firmware {
        Some(path) => (path.display().to_string(), read_file(path, MAX_FIRMWARE)?),
        None => (
            "direct-boot firmware".to_owned(),
            guest_images::TDFW.tdvf.to_vec(),
        ),
    };
    let image =
        Image::parse(&firmware).map_err(|error| Failure::input(format_args!("{name}: {error}")))?;
    let order = args.order.into();
    let (pages, events) = match &args.kernel {
        Some(kernel) => with_kernel(args, kernel, firmware == guest_images::TDFW.tdvf)?,
        None => (Vec::new(), Vec::new()),
    };
    let loading = Loading { image, pages };
    let registers = Registers {
        mrtd: loading.measure(order, None),
        events,
    };
    let mut verdicts = args
        .expect
        .iter()
        .map(|e| diff::expect(e, &registers))
        .collect::<Result<Vec<_>, _>>()?;
    let fail = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::input(format_args!("{}: {error}", path.display()))
    };
    let mut reported = None;
    if let Some(path) = &args.diff {
        let bytes = read_file(path, MAX_FIRMWARE)?;
        let values = report::measurements(&bytes).map_err(|error| fail(path, &error))?;
        verdicts.extend(diff::compare(&values, &registers, &loading, order));
        reported = Some(values);
    }
    let mut rows = Vec::new();
    if let Some(path) = &args.log {
        let bytes = read_file(path, MAX_FIRMWARE)?;
        let log = EventLog::parse(&bytes).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let events = log.map_err(|error| fail(path, &error))?;
        verdicts.extend(log::compare(&events, &registers, reported.as_ref()));
        rows = events.iter().map(log::Row::new).collect();
    }
    let differs = verdicts.iter().any(|verdict| !verdict.equal);
    let result = Measured {
        firmware: name,
        bytes: firmware.len(),
        metadata: match loading.image.source() {
            MetadataSource::GuidedTable => "GUIDed table",
            MetadataSource::OffsetWord => "offset word",
        },
        sections: loading
            .image
            .sections()
            .map(|section| row(&section))
            .collect(),
        order: match order {
            Order::PageByPage => "page-by-page",
            Order::TwoPasses => "two-passes",
        },
        mrtd: hex(&registers.mrtd),
        rtmr: [0, 1, 2, 3].map(|index| registers.rtmr(index).map(|value| hex(&value))),
        events: registers.events,
        log: rows,
        verdicts,
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &result).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&result, args.events, out)?;
    }
    Ok(ExitCode::from(if differs { DIFFERS } else { 0 }))
}

/// What is put into a TD before it runs: the image, then pages that are added and not measured.
pub struct Loading<'a> {
    image: Image<'a>,
    pages: Vec<Gpa>,
}

impl Loading<'_> {
    /// MRTD of the TD, or of one that lacks a section.
    fn measure(&self, order: Order, without: Option<u32>) -> Sha384 {
        let mut mrtd = Mrtd::new();
        let wanted = self
            .image
            .plan(order)
            .filter(|step| Some(section_of(step)) != without);
        wanted.for_each(|step| mrtd.step(&step));
        self.pages.iter().for_each(|gpa| mrtd.add_page(*gpa));
        mrtd.finish()
    }
}

fn section_of(step: &Step<'_>) -> u32 {
    match step {
        Step::AddPage { section, .. }
        | Step::AugPage { section, .. }
        | Step::Extend { section, .. } => *section,
    }
}

/// The pages and events that a kernel brings.
fn with_kernel(
    args: &Args,
    kernel: &Path,
    own_firmware: bool,
) -> Result<(Vec<Gpa>, Vec<Event>), Failure> {
    let bytes = read_file(kernel, MAX_PAYLOAD)?;
    let initrd = args
        .initrd
        .as_deref()
        .map(|path| read_file(path, MAX_PAYLOAD))
        .transpose()?;
    let fail = |error: &dyn std::fmt::Display| {
        Failure::input(format_args!("{}: {error}", kernel.display()))
    };
    if !own_firmware {
        let events = events::edk2(&bytes, &args.append, initrd.as_deref(), args.edk2)
            .map_err(|error| fail(&error))?;
        return Ok((Vec::new(), events));
    }
    let payload = Payload {
        kernel: &bytes,
        initrd: initrd.as_deref().unwrap_or(&[]),
        command_line: &args.append,
    };
    let plan = direct_boot::plan(payload, args.memory.0, args.cpus.into())
        .map_err(|error| fail(&error))?;
    let pages = |memory: &InitialMemory| {
        let start = memory.gpa.raw();
        (start..start + memory.bytes.len() as u64)
            .step_by(4096)
            .map(Gpa::new)
            .collect::<Vec<_>>()
    };
    Ok((
        plan.memory.iter().flat_map(pages).collect(),
        events::direct_boot(&plan.measured),
    ))
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let fail = |error: io::Error| Failure::input(format_args!("{}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > limit {
        return Err(Failure::input(format_args!(
            "{}: {size} bytes; at most {limit} are read",
            path.display()
        )));
    }
    std::fs::read(path).map_err(fail)
}

fn row(section: &Section) -> SectionRow {
    SectionRow {
        index: section.index,
        kind: section.kind.to_string(),
        address: section.memory_address,
        size: section.memory_data_size,
        data_offset: section.data_offset,
        data_size: section.raw_data_size,
        loading: match (
            section.attributes.augmented(),
            section.attributes.extended(),
        ) {
            (true, _) => "PAGE.AUG, unmeasured",
            (false, true) => "PAGE.ADD, MR.EXTEND",
            (false, false) => "PAGE.ADD",
        },
    }
}

fn print(result: &Measured, with_events: bool, out: &mut dyn Write) -> io::Result<()> {
    let Measured {
        firmware,
        bytes,
        metadata,
        sections,
        ..
    } = result;
    writeln!(
        out,
        "{firmware}: {bytes} bytes, {} sections (found by {metadata})",
        sections.len()
    )?;
    writeln!(
        out,
        "  #  type          guest memory                    in the image           pages  loaded by"
    )?;
    for row in sections {
        let memory = format!("{:#x}..{:#x}", row.address, row.address + row.size);
        let data = match row.data_size {
            0 => "-".to_owned(),
            size => format!("{:#x} +{size:#x}", row.data_offset),
        };
        let SectionRow {
            index,
            kind,
            loading,
            ..
        } = row;
        writeln!(
            out,
            "  {index:<2} {kind:<13} {memory:<31} {data:<20} {:>7}  {loading}",
            row.size / 4096
        )?;
    }
    writeln!(out, "MRTD   {}", result.mrtd)?;
    for (index, value) in result.rtmr.iter().enumerate() {
        match value {
            Some(value) => writeln!(out, "RTMR{index}  {value}")?,
            None => writeln!(out, "RTMR{index}  not predicted")?,
        }
    }
    if with_events {
        writeln!(out, "Events")?;
        writeln!(out, "  MRTD   pages in the order above, {}", result.order)?;
        for Event {
            register,
            name,
            digest,
        } in &result.events
        {
            writeln!(out, "  RTMR{register}  {name}\n         {}", hex(digest))?;
        }
    }
    if with_events && !result.log.is_empty() {
        writeln!(out, "Log")?;
        for row in &result.log {
            let log::Row {
                register,
                kind,
                text,
                digest,
            } = row;
            writeln!(out, "  RTMR{register}  {kind} {text}\n         {digest}")?;
        }
    }
    for verdict in &result.verdicts {
        writeln!(out, "{}: {}", verdict.register, verdict.text)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
