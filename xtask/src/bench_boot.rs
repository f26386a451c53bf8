//! `bench-boot`: the same kernel and initramfs in QEMU's TCG as a plain VM and in swtdx as a TD, by turns, with timed jobs
//! in the guest. Both have one thread for one processor.
//!
//! A job is timed on the host, from the console line that begins it to the one that ends it. On a busy machine look at the
//! processor time: it is read from /proc at the same lines.

mod guest_job;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use guest_job::{JOBS, script};

pub const USAGE: &str = "\
bench-boot [--rounds N] [--kernel NAME] [--engine NAME]… [--dir DIR] [--qemu PROGRAM]
      boots a kernel of `guests` (linux-6.12) in QEMU TCG and in swtdx N times by turns (3), runs jobs in both, and
      prints the medians of wall and processor time with their ratio; --engine (interpreter) may be repeated";

/// How long one boot with its jobs may take.
const LONGEST: Duration = Duration::from_secs(900);
const MARKER: &str = "SWTDX-MARKER";

struct Options {
    rounds: usize,
    kernel: String,
    engines: Vec<String>,
    dir: PathBuf,
    qemu: PathBuf,
}

/// Seconds by the clock and on a processor.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: f64,
    cpu: f64,
}

/// One boot: the marker, then each job, and what the guest executed if that is known.
struct Boot {
    spans: Vec<Spent>,
    instructions: Option<u64>,
    whole: Spent,
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
            _ => return Err(format!("{word} is no option\nusage: {USAGE}")),
        }
    }
    if options.engines.is_empty() {
        options.engines.push("interpreter".into());
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
    let swtdx = build_swtdx(root)?;
    let machines = machines(&options, &swtdx, &kernel, &initrd);
    let mut boots: Vec<Vec<Boot>> = machines.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for ((name, command), boots) in machines.iter().zip(&mut boots) {
            let boot = boot(command).map_err(|why| format!("{name}: {why}"))?;
            eprintln!(
                "bench-boot: round {round}, {name}: marker after {:.1} s, all jobs after {:.1} s",
                boot.spans[0].wall, boot.whole.wall
            );
            boots.push(boot);
        }
    }
    let names: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
    print!("{}", report(&names, &boots));
    Ok(())
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

/// What is compared: QEMU first, then swtdx with each engine.
fn machines(
    options: &Options,
    swtdx: &Path,
    kernel: &Path,
    initrd: &Path,
) -> Vec<(String, Vec<String>)> {
    let path = |path: &Path| path.display().to_string();
    let script = script();
    let mut words: Vec<String> = vec![path(&options.qemu)];
    let plain = "-machine q35 -accel tcg,thread=single -cpu max -smp 1 -m 1G -nodefaults -display none \
                 -monitor none -serial stdio -no-reboot -kernel";
    words.extend(plain.split_whitespace().map(String::from));
    words.extend([path(kernel), "-initrd".into(), path(initrd)]);
    let append = format!("console=ttyS0 exec={}", guest_job::encoded(&script));
    words.extend(["-append".into(), append]);
    let mut machines = vec![("QEMU TCG".to_owned(), words)];
    for engine in &options.engines {
        let mut words = vec![path(swtdx)];
        let plain = "run --json --quiet --cpus 1 --memory 1G --append console=ttyS0 --engine";
        words.extend(plain.split_whitespace().map(String::from));
        words.extend([engine.clone(), "--kernel".into(), path(kernel)]);
        words.extend([
            "--initrd".into(),
            path(initrd),
            "--exec".into(),
            script.clone(),
        ]);
        machines.push((format!("swtdx {engine}"), words));
    }
    machines
}

/// Ends the guest's process when a boot is over, however it ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots once and watches the console: QEMU's on standard output, swtdx's on standard error.
fn boot(command: &[String]) -> Result<Boot, String> {
    let started = Instant::now();
    let json = command.iter().any(|word| word == "--json");
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]).stdin(Stdio::null());
    program.stdout(Stdio::piped());
    program.stderr(if json {
        Stdio::piped()
    } else {
        Stdio::inherit()
    });
    let child = program
        .spawn()
        .map_err(|why| format!("{}: {why}", command[0]))?;
    let mut guest = Guest(child);
    let stat = PathBuf::from(format!("/proc/{}/stat", guest.0.id()));
    let now = || Spent {
        wall: started.elapsed().as_secs_f64(),
        cpu: cpu_seconds(&stat).unwrap_or(f64::NAN),
    };
    let console: Box<dyn Read> = match json {
        true => Box::new(guest.0.stderr.take().expect("it is piped")),
        false => Box::new(guest.0.stdout.take().expect("it is piped")),
    };
    let mut spans = Vec::new();
    let mut begun = None;
    let mut last = String::new();
    let mut whole = Spent::default();
    for line in BufReader::new(console).split(b'\n') {
        let line = line.map_err(|why| format!("its console: {why}"))?;
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        let at = now();
        if line.starts_with(MARKER) {
            spans.push(at);
        } else if line == guest_job::BEGIN {
            begun = Some(at);
        } else if line == guest_job::END {
            let from: Spent = begun.take().ok_or("a job ended that had not begun")?;
            spans.push(Spent {
                wall: at.wall - from.wall,
                cpu: at.cpu - from.cpu,
            });
            whole = at;
        }
        if at.wall > LONGEST.as_secs_f64() {
            return Err(format!("no end after {} s", LONGEST.as_secs()));
        }
        if !line.is_empty() {
            last = line;
        }
    }
    if spans.len() != 1 + JOBS.len() {
        return Err(format!(
            "it ended after {} of {} jobs; its last line: {last}",
            spans.len().saturating_sub(1),
            JOBS.len()
        ));
    }
    let mut summary = String::new();
    if let (true, Some(mut out)) = (json, guest.0.stdout.take()) {
        let _ = out.read_to_string(&mut summary);
    }
    let instructions = summary.lines().find_map(|line| {
        let value = line.trim().strip_prefix("\"instructions\": ")?;
        value.trim_end_matches(',').parse().ok()
    });
    Ok(Boot {
        spans,
        instructions,
        whole,
    })
}

/// User and system time of a process (proc(5): fields 14 and 15 of stat, in hundredths of a second).
fn cpu_seconds(stat: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(stat).ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Ratios above 1 are in favour of swtdx.
fn report(names: &[&str], boots: &[Vec<Boot>]) -> String {
    let mut text = String::new();
    let titles = ["boot to marker"]
        .into_iter()
        .chain(JOBS.iter().map(|job| job.name));
    let medians = |boots: &[Boot], span: usize| Spent {
        wall: median(boots.iter().map(|boot| boot.spans[span].wall).collect()),
        cpu: median(boots.iter().map(|boot| boot.spans[span].cpu).collect()),
    };
    let _ = writeln!(
        text,
        "{:<24} {:<20} {:>9} {:>9} {:>14}",
        "", "", "wall s", "CPU s", "TCG/this, CPU"
    );
    for (span, title) in titles.enumerate() {
        let tcg = medians(&boots[0], span);
        for (name, boots) in names.iter().zip(boots) {
            let spent = medians(boots, span);
            let _ = writeln!(
                text,
                "{title:<24} {name:<20} {:>9.2} {:>9.2} {:>14.2}",
                spent.wall,
                spent.cpu,
                tcg.cpu / spent.cpu
            );
        }
    }
    for (name, boots) in names.iter().zip(boots) {
        let rates = boots.iter().filter_map(|boot| {
            let instructions = boot.instructions? as f64;
            Some((instructions, instructions / boot.whole.cpu / 1e6))
        });
        let (counts, rates): (Vec<_>, Vec<_>) = rates.unzip();
        if !counts.is_empty() {
            let _ = writeln!(
                text,
                "{name}: {:.0} guest instructions, {:.0} million per CPU second",
                median(counts),
                median(rates)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_compares_medians_with_qemus() {
        let boot = |seconds: f64, instructions| Boot {
            spans: vec![
                Spent {
                    wall: 2.0 * seconds,
                    cpu: seconds
                };
                1 + JOBS.len()
            ],
            instructions,
            whole: Spent {
                wall: 20.0,
                cpu: 10.0,
            },
        };
        let tcg = vec![boot(9.0, None), boot(2.0, None), boot(3.0, None)];
        let ours = vec![boot(6.0, Some(1_000_000_000))];
        let text = report(&["QEMU TCG", "swtdx x"], &[tcg, ours]);
        let row = text
            .lines()
            .find(|l| l.starts_with("boot to marker") && l.contains("swtdx"));
        let words: Vec<_> = row.expect("a row").split_whitespace().collect();
        assert_eq!(words[5..], ["12.00", "6.00", "0.50"]);
        assert!(text.ends_with("1000000000 guest instructions, 100 million per CPU second\n"));
    }

    #[test]
    fn processor_time_is_read_although_a_name_holds_brackets() {
        let file = std::env::temp_dir().join(format!("swtdx-stat-{}", std::process::id()));
        let stat = "7 (a) b) S 1 1 1 0 -1 4 0 0 0 0 250 50 0 0 20 0";
        std::fs::write(&file, stat).expect("a file");
        assert_eq!(cpu_seconds(&file), Some(3.0));
        std::fs::remove_file(&file).expect("the file");
    }
}
