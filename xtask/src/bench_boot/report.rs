//! What the rounds came to: medians for people, every round for scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::boot::{Boot, Spent};
use super::machine::Machine;

pub struct Report<'a> {
    /// What the others are compared with first: QEMU, or one vCPU.
    machines: &'a [Machine],
    boots: &'a [Vec<Boot>],
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn median_of(boots: &[Boot], value: impl Fn(&Boot) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = boots.iter().filter_map(value).collect();
    (!values.is_empty()).then(|| median(values))
}

fn medians(boots: &[Boot], span: usize) -> Spent {
    let of =
        |value: fn(&Spent) -> f64| median(boots.iter().map(|b| value(&b.spans[span])).collect());
    let counts = boots
        .iter()
        .filter_map(|boot| boot.spans[span].instructions);
    let mut counts: Vec<u64> = counts.collect();
    counts.sort();
    Spent {
        wall: of(|spent| spent.wall),
        cpu: of(|spent| spent.cpu),
        instructions: counts.get(counts.len() / 2).copied(),
    }
}

impl<'a> Report<'a> {
    /// Of every machine at least one boot.
    pub fn new(machines: &'a [Machine], boots: &'a [Vec<Boot>]) -> Self {
        Report { machines, boots }
    }

    fn titles(&self) -> impl Iterator<Item = &'static str> + use<> {
        let jobs = self.machines[0].jobs;
        ["boot to marker"]
            .into_iter()
            .chain(jobs.iter().map(|job| job.name))
    }

    /// Ratios above 1 are in favour of the row.
    pub fn text(&self) -> String {
        let base = match self.machines[0].is_ours {
            true => "one",
            false => "TCG",
        };
        let (of_wall, of_cpu) = (format!("{base}/wall"), format!("{base}/CPU"));
        let mut text = format!(
            "{:<20} {:<18} {:>8} {:>8} {:>14} {:>7} {:>10} {:>10}\n",
            "", "", "wall s", "CPU s", "instructions", "MIPS", of_wall, of_cpu
        );
        for (span, title) in self.titles().enumerate() {
            let first = medians(&self.boots[0], span);
            for (machine, boots) in self.machines.iter().zip(self.boots) {
                let spent = medians(boots, span);
                let count = spent.instructions;
                let mips = count.map(|count| format!("{:.0}", count as f64 / spent.cpu / 1e6));
                let _ = writeln!(
                    text,
                    "{title:<20} {:<18} {:>8.2} {:>8.2} {:>14} {:>7} {:>10.2} {:>10.2}",
                    machine.name,
                    spent.wall,
                    spent.cpu,
                    count.map_or("-".into(), |count| count.to_string()),
                    mips.unwrap_or("-".into()),
                    first.wall / spent.wall,
                    first.cpu / spent.cpu
                );
            }
        }
        for (machine, boots) in self.machines.iter().zip(self.boots) {
            let mib = |bytes: f64| bytes / f64::from(1 << 20);
            let peak = median_of(boots, |boot| Some(boot.peak? as f64));
            let told =
                |name: &str| median_of(boots, |boot| boot.translator.as_ref()?[name].as_f64());
            let _ = write!(text, "{}: ", machine.name);
            let _ = match peak {
                Some(peak) => write!(text, "at most {:.0} MiB of memory", mib(peak)),
                None => write!(text, "memory unknown"),
            };
            if let (Some(blocks), Some(code), Some(tables), Some(drops)) = (
                told("blocks"),
                told("code_bytes"),
                told("table_bytes"),
                told("drops"),
            ) {
                let _ = write!(
                    text,
                    "; {blocks:.0} blocks in {:.1} MiB of translated code, {:.1} MiB of tables, dropped {drops:.0} times",
                    mib(code),
                    mib(tables)
                );
            }
            text.push('\n');
        }
        text
    }

    /// Everything that was measured, round by round.
    pub fn json(&self) -> Value {
        let machines = self.machines.iter().zip(self.boots);
        let of_machine = |(machine, boots): (&Machine, &Vec<Boot>)| {
            let rows: Vec<Value> = self
                .titles()
                .enumerate()
                .map(|(span, title)| {
                    let spans = boots.iter().map(|boot| boot.spans[span]);
                    json!({
                        "row": title,
                        "wall_s": spans.clone().map(|spent| spent.wall).collect::<Vec<_>>(),
                        "cpu_s": spans.clone().map(|spent| spent.cpu).collect::<Vec<_>>(),
                        "instructions": spans.map(|spent| spent.instructions).collect::<Vec<_>>(),
                    })
                })
                .collect();
            json!({
                "name": machine.name,
                "command": machine.command,
                "rows": rows,
                "peak_bytes": boots.iter().map(|boot| boot.peak).collect::<Vec<_>>(),
                "translator": boots.iter().map(|boot| &boot.translator).collect::<Vec<_>>(),
            })
        };
        json!({ "machines": machines.map(of_machine).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_boot::guest_job::JOBS;

    fn boot(seconds: f64, instructions: Option<u64>) -> Boot {
        let spent = Spent {
            wall: 2.0 * seconds,
            cpu: seconds,
            instructions,
        };
        Boot {
            spans: vec![spent; 1 + JOBS.len()],
            whole: spent,
            peak: Some(3 << 20),
            translator: instructions.map(|_| {
                json!({ "blocks": 7, "code_bytes": 1 << 20, "table_bytes": 2 << 20, "drops": 0 })
            }),
        }
    }

    fn machine(name: &str) -> Machine {
        Machine {
            name: name.into(),
            command: vec![name.into()],
            is_ours: name != "QEMU TCG",
            jobs: JOBS,
        }
    }

    #[test]
    fn medians_stand_beside_qemus() {
        let machines = [machine("QEMU TCG"), machine("swtdx")];
        let tcg = vec![boot(9.0, None), boot(2.0, None), boot(3.0, None)];
        let boots = [tcg, vec![boot(6.0, Some(1_200_000_000))]];
        let report = Report::new(&machines, &boots);
        let text = report.text();
        let rows: Vec<Vec<_>> = text
            .lines()
            .filter(|line| line.starts_with("boot to marker"))
            .map(|line| line.split_whitespace().skip(3).collect())
            .collect();
        assert_eq!(rows[0][2..], ["6.00", "3.00", "-", "-", "1.00", "1.00"]);
        assert_eq!(
            rows[1],
            [
                "swtdx",
                "12.00",
                "6.00",
                "1200000000",
                "200",
                "0.50",
                "0.50"
            ]
        );
        let ours = text.lines().last();
        assert_eq!(
            ours,
            Some(
                "swtdx: at most 3 MiB of memory; 7 blocks in 1.0 MiB of translated code, 2.0 MiB of tables, dropped 0 times"
            )
        );
        let json = report.json();
        assert_eq!(
            json["machines"][0]["rows"][0]["cpu_s"],
            json!([9.0, 2.0, 3.0])
        );
        assert_eq!(json["machines"][1]["rows"][4]["row"], JOBS[3].name);
        assert_eq!(json["machines"][1]["translator"][0]["blocks"], 7);
    }
}
