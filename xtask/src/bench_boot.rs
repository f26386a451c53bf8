//! `bench-boot`: the same kernel and initramfs in QEMU's TCG as a plain VM and in swtdx as a TD, by turns, with timed jobs
//! in the guest. Both have one thread for one processor.
//!
//! A job is timed on the host, from the console line that begins it to the one that ends it. On a busy machine look at the
//! processor time: it is read from /proc at the same lines.

mod boot;
mod guest_job;
mod machine;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use boot::Boot;
use machine::Machine;
use report::Report;

pub const USAGE: &str = "\
bench-boot [--rounds N] [--kernel NAME] [--engine NAME]… [--dir DIR] [--qemu PROGRAM] [--parallel] [--json]
      boots a kernel of `guests` (linux-6.12) in QEMU TCG and in swtdx N times by turns (3), runs jobs in both, and
      prints the medians of wall and processor time with their ratio; --engine (what `swtdx run` takes by itself) may be
      repeated; --parallel instead compares swtdx on one vCPU and on four (--realtime), at work for eight processes;
      --json prints every round";

struct Options {
    rounds: usize,
    kernel: String,
    engines: Vec<String>,
    dir: PathBuf,
    qemu: PathBuf,
    json: bool,
    parallel: bool,
}

pub fn run(arguments: &[String]) -> ExitCode {
    match bench(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench-boot: {why}");
            ExitCode::from(1)
        }
    }
}

fn options(arguments: &[String], root: &Path) -> Result<Options, String> {
    let dir = root.join("target/guests");
    let mut options = Options {
        rounds: 3,
        kernel: "linux-6.12".into(),
        engines: Vec::new(),
        qemu: qemu(&dir),
        dir,
        json: false,
        parallel: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} takes a value"));
        match word.as_str() {
            "--rounds" => {
                let given = value()?;
                let rounds = given.parse().ok().filter(|&rounds| rounds > 0);
                options.rounds = rounds.ok_or(format!("--rounds {given}: no number of rounds"))?;
            }
            "--kernel" => options.kernel = value()?.clone(),
            "--engine" => options.engines.push(value()?.clone()),
            "--dir" => options.dir = value()?.into(),
            "--qemu" => options.qemu = value()?.into(),
            "--json" => options.json = true,
            "--parallel" => options.parallel = true,
            _ => return Err(format!("{word} is no option\nusage: {USAGE}")),
        }
    }
    Ok(options)
}

/// QEMU as `guests` obtained it, else the one that the machine has.
fn qemu(dir: &Path) -> PathBuf {
    let obtained = dir.join("qemu/run/qemu-system-x86_64");
    match obtained.exists() {
        true => obtained,
        false => "qemu-system-x86_64".into(),
    }
}

fn bench(arguments: &[String]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let options = options(arguments, root)?;
    let kernel = options.dir.join(&options.kernel).join("vmlinuz");
    let initrd = options
        .dir
        .join(format!("initramfs-{}.cpio", options.kernel));
    for file in [&kernel, &initrd] {
        if !file.exists() {
            return Err(format!(
                "{} is missing: cargo xtask guests {} busybox",
                file.display(),
                options.kernel
            ));
        }
    }
    let guest = machine::Guest {
        kernel: &kernel,
        initrd: &initrd,
        script: match options.parallel {
            true => guest_job::parallel_script(),
            false => guest_job::script(),
        },
        jobs: match options.parallel {
            true => guest_job::PARALLEL,
            false => guest_job::JOBS,
        },
    };
    let swtdx = build_swtdx(root)?;
    let mut machines = match options.parallel {
        true => [1, 4]
            .map(|cpus| Machine::realtime(&swtdx, options.engines.first(), cpus, &guest))
            .into(),
        false => vec![Machine::qemu(&options.qemu, &guest)],
    };
    match &options.engines[..] {
        _ if options.parallel => {}
        [] => machines.push(Machine::swtdx(&swtdx, None, &guest)),
        engines => {
            let of = |engine: &String| Machine::swtdx(&swtdx, Some(engine), &guest);
            machines.extend(engines.iter().map(of));
        }
    }
    for machine in &machines {
        eprintln!("bench-boot: {}: {}", machine.name, machine.shown());
    }
    let boots = rounds(options.rounds, &machines)?;
    let report = Report::new(&machines, &boots);
    match options.json {
        true => println!("{:#}", report.json()),
        false => print!("{}", report.text()),
    }
    Ok(())
}

/// Every machine's boots, one of each in every round.
fn rounds(rounds: usize, machines: &[Machine]) -> Result<Vec<Vec<Boot>>, String> {
    let mut boots: Vec<Vec<Boot>> = machines.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (machine, boots) in machines.iter().zip(&mut boots) {
            let name = &machine.name;
            let boot = boot::boot(machine).map_err(|why| format!("{name}: {why}"))?;
            eprintln!(
                "bench-boot: round {round}, {name}: marker after {:.1} s, all jobs after {:.1} s",
                boot.spans[0].wall, boot.whole.wall
            );
            boots.push(boot);
        }
    }
    Ok(boots)
}

fn build_swtdx(root: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "-p", "swtdx"])
        .current_dir(root)
        .status()
        .map_err(|why| format!("cargo: {why}"))?;
    if !built.success() {
        return Err("swtdx does not build".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(target.join("release/swtdx"))
}
