//! One boot: the program is started, and its console read against the clock.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::guest_job;
use super::machine::Machine;

/// How long one boot with its jobs may take.
const LONGEST: Duration = Duration::from_secs(900);
const MARKER: &str = "SWTDX-MARKER";

/// Seconds by the clock and on a processor, and what the guest executed meanwhile if that is known.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spent {
    pub wall: f64,
    pub cpu: f64,
    pub instructions: Option<u64>,
}

/// The marker, then each job, and the time to the end of the last.
#[derive(Clone, Debug)]
pub struct Boot {
    pub spans: Vec<Spent>,
    pub whole: Spent,
    /// Most bytes of memory that the program had at once.
    pub peak: Option<u64>,
    /// What swtdx says of its translator.
    pub translator: Option<Value>,
}

/// Ends the guest's process when a boot is over, however it ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a line of the console means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Marker,
    Begin,
    End,
    Other,
}

impl Line {
    fn of(line: &str) -> Line {
        match line {
            guest_job::BEGIN => Line::Begin,
            guest_job::END => Line::End,
            _ if line.starts_with(MARKER) => Line::Marker,
            _ => Line::Other,
        }
    }
}

/// Puts spans together from the lines that begin and end them.
#[derive(Default)]
struct Spans {
    begun: Option<Spent>,
    ended: Vec<Spent>,
    last: Spent,
}

impl Spans {
    fn line(&mut self, line: Line, at: Spent) -> Result<(), String> {
        match line {
            Line::Marker => self.ended.push(at),
            Line::Begin => self.begun = Some(at),
            Line::End => {
                let from = self.begun.take().ok_or("a job ended that had not begun")?;
                self.ended.push(Spent {
                    wall: at.wall - from.wall,
                    cpu: at.cpu - from.cpu,
                    instructions: at
                        .instructions
                        .zip(from.instructions)
                        .and_then(|(end, start)| end.checked_sub(start)),
                });
            }
            Line::Other => return Ok(()),
        }
        self.last = at;
        Ok(())
    }
}

/// Boots once and watches the console: QEMU's on standard output, swtdx's on standard error.
pub fn boot(machine: &Machine) -> Result<Boot, String> {
    let started = Instant::now();
    let mut program = Command::new(&machine.command[0]);
    program.args(&machine.command[1..]).stdin(Stdio::null());
    program.stdout(Stdio::piped());
    program.stderr(match machine.is_ours {
        true => Stdio::piped(),
        false => Stdio::inherit(),
    });
    let child = program
        .spawn()
        .map_err(|why| format!("{}: {why}", machine.command[0]))?;
    let mut guest = Guest(child);
    let process = PathBuf::from(format!("/proc/{}", guest.0.id()));
    let console: Box<dyn Read> = match machine.is_ours {
        true => Box::new(guest.0.stderr.take().expect("it is piped")),
        false => Box::new(guest.0.stdout.take().expect("it is piped")),
    };
    let mut spans = Spans::default();
    let mut peak = None;
    let mut last = String::new();
    for line in BufReader::new(console).split(b'\n') {
        let line = line.map_err(|why| format!("its console: {why}"))?;
        let wall = started.elapsed();
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        let meaning = Line::of(&line);
        if meaning != Line::Other {
            let at = Spent {
                wall: wall.as_secs_f64(),
                cpu: cpu_seconds(&process).unwrap_or(f64::NAN),
                instructions: None,
            };
            spans.line(meaning, at)?;
            peak = peak_bytes(&process).or(peak);
        }
        if wall > LONGEST {
            return Err(format!("no end after {} s", LONGEST.as_secs()));
        }
        if !line.is_empty() {
            last = line;
        }
    }
    if spans.ended.len() != 1 + machine.jobs.len() {
        return Err(format!(
            "it ended after {} of {} jobs; its last line: {last}",
            spans.ended.len().saturating_sub(1),
            machine.jobs.len()
        ));
    }
    let mut boot = Boot {
        spans: spans.ended,
        whole: spans.last,
        peak,
        translator: None,
    };
    if let (true, Some(mut out)) = (machine.is_ours, guest.0.stdout.take()) {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        let summary: Value =
            serde_json::from_str(&text).map_err(|why| format!("summary: {why}"))?;
        counted(&mut boot, &summary)?;
    }
    Ok(boot)
}

/// Adds what a summary of swtdx says: how far the guest was at each of the lines, and the translator's size.
fn counted(boot: &mut Boot, summary: &Value) -> Result<(), String> {
    let mut spans = Spans::default();
    let marks = summary["marks"].as_array();
    for mark in marks.into_iter().flatten() {
        let at = Spent {
            instructions: mark["instructions"].as_u64(),
            ..Spent::default()
        };
        spans.line(Line::of(mark["line"].as_str().unwrap_or("")), at)?;
    }
    for (span, counted) in boot.spans.iter_mut().zip(&spans.ended) {
        span.instructions = counted.instructions;
    }
    boot.whole.instructions = spans.last.instructions;
    boot.translator = Some(summary["translator"].clone()).filter(|told| !told.is_null());
    Ok(())
}

/// User and system time of a process (proc(5): fields 14 and 15 of stat, in hundredths of a second).
fn cpu_seconds(process: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(process.join("stat")).ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

/// The most memory that a process has had (VmHWM of proc(5), in units of 1024 bytes).
fn peak_bytes(process: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(process.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_although_a_name_holds_brackets() {
        let process = std::env::temp_dir().join(format!("swtdx-stat-{}", std::process::id()));
        std::fs::create_dir_all(&process).expect("a folder");
        let stat = "7 (a) b) S 1 1 1 0 -1 4 0 0 0 0 250 50 0 0 20 0";
        std::fs::write(process.join("stat"), stat).expect("a file");
        std::fs::write(process.join("status"), "Name:\tb\nVmHWM:\t    2048 kB\n").expect("a file");
        assert_eq!(cpu_seconds(&process), Some(3.0));
        assert_eq!(peak_bytes(&process), Some(2 << 20));
        std::fs::remove_dir_all(&process).expect("the folder");
    }

    #[test]
    fn the_summarys_marks_give_each_span_its_instructions() {
        let mut boot = Boot {
            spans: vec![Spent::default(); 2],
            whole: Spent::default(),
            peak: None,
            translator: None,
        };
        let mark = |line, instructions: u64| serde_json::json!({ "line": line, "instructions": instructions });
        let marks = [
            mark("SWTDX-MARKER user space is up", 1000),
            mark(guest_job::BEGIN, 1100),
            mark(guest_job::END, 1600),
            mark("SWTDX-DONE", 1700),
        ];
        let summary = serde_json::json!({ "marks": marks, "translator": { "blocks": 5 } });
        counted(&mut boot, &summary).expect("marks in order");
        let counts: Vec<_> = boot.spans.iter().map(|span| span.instructions).collect();
        assert_eq!(counts, [Some(1000), Some(500)]);
        assert_eq!(boot.whole.instructions, Some(1600));
        assert_eq!(boot.translator.expect("told")["blocks"], 5);
        let ended = serde_json::json!({ "marks": [mark(guest_job::END, 1)] });
        assert!(
            counted(
                &mut Boot {
                    translator: None,
                    ..boot
                },
                &ended
            )
            .is_err()
        );
    }
}
