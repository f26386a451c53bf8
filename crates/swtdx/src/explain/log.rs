//! Kernel logs pasted whole: the lines that speak of TDX, with what is in them explained.

use std::collections::HashSet;

use tdx_abi::Status;

use super::reading::{Explanation, Reading};
use super::{exits, leaves, status, value, words};

/// Explains every line in which something is known. What was explained before is only named.
pub fn explain(log: &str) -> Vec<Explanation> {
    let mut seen = HashSet::new();
    let mut explanations = Vec::new();
    for line in log.lines() {
        let mut readings = read_line(line);
        for reading in &mut readings {
            if !seen.insert((reading.kind, reading.title.clone())) {
                reading.facts.clear();
            }
        }
        if !readings.is_empty() {
            explanations.push(Explanation::new(line.trim_end(), readings));
        }
    }
    explanations
}

fn read_line(line: &str) -> Vec<Reading> {
    let lower = line.to_ascii_lowercase();
    let tdx = [
        "tdx", "seamcall", "tdcall", "tdvmcall", "tdh_", "tdh.", "tdg.", "#ve", "sept", "cmr",
        "pamt", "tdmr",
    ];
    if !tdx.iter().any(|word| lower.contains(word)) {
        return Vec::new();
    }
    let mut readings: Vec<Reading> = PHRASES
        .iter()
        .filter(|(phrase, _)| lower.contains(phrase))
        .map(|(phrase, meaning)| Reading::new("message", *phrase).with("meaning", *meaning))
        .collect();
    readings.extend(ranges(&lower));
    readings.extend(calls(&lower));
    let statuses = numbers(&lower);
    let of_secure_ept = statuses
        .iter()
        .any(|reading| reading.title.starts_with("TDX_EPT_"));
    readings.extend(statuses);
    if of_secure_ept {
        readings.extend(secure_ept_words(&lower));
    }
    readings.extend(named_values(&lower));
    readings
}

/// What kernels say about TDX, in lower case, and what it means.
const PHRASES: &[(&str, &str)] = &[
    (
        "guest detected",
        "The kernel runs in a TD: CPUID leaf 0x21 says IntelTDX.",
    ),
    (
        "module initialized",
        "The TDX module is ready: TDs can be built.",
    ),
    (
        "module initialization failed",
        "Bring-up of the TDX module stopped; the SEAMCALL that failed is in a line before.",
    ),
    (
        "not enabled by bios",
        "The firmware has not set up TDX: TME-MT, private key IDs or the module are missing.",
    ),
    (
        "module is not loaded",
        "SEAMCALL found no TDX module (VMfailInvalid): the firmware did not load one.",
    ),
    (
        "sept_ve_disable attribute must be set",
        "The TD was built without ATTRIBUTES.SEPT_VE_DISABLE: its VMM could inject #VE on private memory, so the kernel stops.",
    ),
    (
        "td misconfiguration",
        "The TD's attributes are not what this kernel insists on.",
    ),
    (
        "guest access before accepting",
        "The guest touched private memory before TDG.MEM.PAGE.ACCEPT; the VMM ends the TD.",
    ),
    (
        "unexpected #ve",
        "A #VE for which the guest has no handler; the number is the exit reason.",
    ),
    (
        "tdvmcall failed",
        "TDG.VP.VMCALL itself was refused: the register mask in RCX is wrong, or the module is.",
    ),
    ("buggy tdx module", "A TDCALL that cannot fail has failed."),
    (
        "unsupported #ve",
        "A #VE for which the guest has no handler.",
    ),
];

/// Ranges of memory and key IDs: `CMR: [0x100000, 0x77800000)`.
fn ranges(lower: &str) -> Option<Reading> {
    // The last bracket: a kernel's time stamp and indices such as CMR[0] have brackets too.
    let (before, rest) = lower.rsplit_once('[')?;
    let (range, _) = rest.split_once([')', ']'])?;
    let (first, last) = range.split_once(',').or_else(|| range.split_once('-'))?;
    let (first, last) = (value::number(first)?, value::number(last)?);
    let count = last.checked_sub(first)?;
    if before.contains("cmr") {
        let title = format!("[{first:#x}, {last:#x}), {}", size(count));
        Some(Reading::new("CMR", title).with(
            "meaning",
            "Convertible memory: the firmware lets TDX use it.",
        ))
    } else if before.contains("keyid") {
        let text = format!(
            "{count} HKIDs: one for the module, so at most {} TDs at a time.",
            count.saturating_sub(1)
        );
        Some(Reading::new("private key IDs", format!("[{first}, {last})")).with("meaning", text))
    } else {
        None
    }
}

/// Leaves: `SEAMCALL (0x24)`, `TDCALL[4]`, `TDH_MEM_PAGE_ADD`, `TDH.MEM.TRACK`.
fn calls(lower: &str) -> Vec<Reading> {
    let mut readings = Vec::new();
    let brief = |mut reading: Reading| {
        reading
            .facts
            .retain(|fact| matches!(fact.name, "number" | "does"));
        reading
    };
    for (word, read) in [
        ("seamcall", leaves::read_host as fn(u64) -> Option<Reading>),
        ("tdcall", leaves::read_guest),
    ] {
        let after = lower
            .split(word)
            .nth(1)
            .unwrap_or("")
            .trim_start_matches([' ', '(', '[', ':']);
        let end = after
            .find(|c: char| !c.is_ascii_hexdigit() && c != 'x')
            .unwrap_or(after.len());
        let number = value::number(&after[..end]).filter(|number| *number <= 0xFF_FFFF);
        readings.extend(number.and_then(read).map(brief));
    }
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.');
    let names = words.filter(|word| word.starts_with("tdh") || word.starts_with("tdg"));
    readings.extend(
        names
            .filter_map(|name| leaves::named(&name.replace('_', ".").to_ascii_uppercase()))
            .map(brief),
    );
    readings
}

/// Numbers wide enough that a completion status is the only thing they can be.
fn numbers(lower: &str) -> Vec<Reading> {
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| word.len() >= 16)
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .map(Status)
        .filter(|status| status.code().0 != 0 && status.row().is_some())
        .map(status::read)
        .collect()
}

/// The words that a failed walk or state check returns beside its status: `rcx 0x8000000000000000, rdx 0x400`.
fn secure_ept_words(lower: &str) -> Option<Reading> {
    let (entry, info) = (after(lower, &["rcx"])?, after(lower, &["rdx"])?);
    Some(words::read_sept_entry(entry, Some(info)))
}

/// The number that follows the first of `names`.
fn after(lower: &str, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| {
        let (_, rest) = lower.split_once(name)?;
        let rest = rest.trim_start_matches([' ', ':', '=']);
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        value::number(&rest[..end])
    })
}

/// Values that their name says what they are: `exit reason 48`, `xfam 0x2e7`, `1050644 kb allocated for pamt`.
fn named_values(lower: &str) -> Vec<Reading> {
    let after = |names: &[&str]| after(lower, names);
    let mut readings = Vec::new();
    if let Some(reason) = after(&["exit reason", "exit_reason", "#ve"])
        .filter(|reason| *reason <= u64::from(u32::MAX))
    {
        readings.extend(exits::read(
            reason,
            after(&["qualification", "exit_qual"]),
            None,
        ));
    }
    readings.extend(after(&["xfam"]).map(words::read_xfam));
    if lower.contains("td ") || lower.contains("td_") || lower.contains("guest") {
        readings.extend(after(&["attributes"]).map(words::read_attributes));
    }
    readings.extend(module_version(lower));
    let pamt = lower
        .split_once("kb allocated for pamt")
        .and_then(|(before, _)| before.split_whitespace().next_back());
    if let Some(kb) = pamt.and_then(|word| word.parse::<u64>().ok()) {
        let memory = size(kb.saturating_mul(1024).saturating_mul(256));
        let text =
            format!("The module's page records, 1/256 of the TDMRs: they cover about {memory}.");
        readings.push(Reading::new("PAMT", format!("{kb} KB")).with("meaning", text));
    }
    readings
}

/// The module's version: `major_version 1, minor_version 5`, `TDX module version: 1.5.24`, `module verson: 1.5.1.0`.
fn module_version(lower: &str) -> Option<Reading> {
    let in_one_word = ["module version", "module verson"]
        .iter()
        .find_map(|name| lower.split_once(name))
        .map(|(_, rest)| {
            let rest = rest.trim_start_matches([' ', ':']);
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        });
    let in_fields = || {
        Some(format!(
            "{}.{}",
            after(lower, &["major_version"])?,
            after(lower, &["minor_version"])?
        ))
    };
    let version = in_one_word
        .filter(|version| !version.is_empty())
        .or_else(in_fields)?;
    let date =
        after(lower, &["build_date"]).map_or(String::new(), |date| format!(", built {date}"));
    let known = version == "1.5" || version.starts_with("1.5.");
    let meaning = if known {
        "the series this tool knows"
    } else {
        "another series than 1.5: names may differ"
    };
    Some(Reading::new("TDX module", format!("version {version}{date}")).with("meaning", meaning))
}

/// A size in the largest unit that keeps three digits.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift >= 1) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(log: &str) -> Vec<String> {
        explain(log)
            .into_iter()
            .flat_map(|e| e.readings)
            .map(|r| format!("{}: {}", r.kind, r.title))
            .collect()
    }

    #[test]
    fn lines_of_other_things_are_passed_over() {
        assert!(
            explain("usb 1-1: new device 0xc000010000000000\n[    1.0] e1000: reset\n\n")
                .is_empty()
        );
    }

    #[test]
    fn a_failed_seamcall_is_read_as_leaf_and_status() {
        assert_eq!(
            titles("[   12.3] virt/tdx: SEAMCALL (0x0000000000000007) failed: 0x8000020000000092"),
            [
                "SEAMCALL leaf: TDH.MEM.RANGE.BLOCK",
                "completion status: TDX_OPERAND_BUSY(SEPT_TREE)"
            ]
        );
        assert_eq!(
            titles("kvm_intel: SEAMCALL TDH_MEM_TRACK failed: 0xc000060800000000")[0],
            "SEAMCALL leaf: TDH.MEM.TRACK"
        );
    }

    #[test]
    fn the_module_s_version_is_read_in_every_form() {
        for (line, version) in [
            (
                "[   20.1] virt/tdx: TDX module version: 1.5.24",
                "version 1.5.24",
            ),
            (
                "[   29.3] virt/tdx: module verson: 1.5.1.0",
                "version 1.5.1.0",
            ),
            (
                "virt/tdx: TDX module: attributes 0x0, major_version 2, minor_version 0",
                "version 2.0",
            ),
        ] {
            assert_eq!(titles(line), [format!("TDX module: {version}")], "{line}");
        }
        assert_eq!(
            titles("[    5.1] virt/tdx: CMR[0]: [0x100000, 0x200000)"),
            ["CMR: [0x100000, 0x200000), 1.0 MiB"]
        );
    }

    #[test]
    fn a_failed_walk_is_read_with_its_entry() {
        let line = "kvm_intel: SEAMCALL TDH_MEM_PAGE_AUG failed: 0xc0000b0d00000001, rcx 0x8000000000000000, rdx 0x402";
        assert_eq!(
            titles(line)[1..],
            [
                "completion status: TDX_EPT_ENTRY_STATE_INCORRECT(RCX)",
                "Secure EPT entry: SUPP_VE"
            ]
        );
        let facts = &explain(line)[0].readings[2].facts;
        assert_eq!(facts[2].text, "MAPPED at level 2 (1 GiB), L1");
    }

    #[test]
    fn what_was_explained_before_is_only_named() {
        let log = "tdx: 0xc000060800000000\ntdx: 0xc000060800000000";
        let facts: Vec<usize> = explain(log)
            .iter()
            .map(|e| e.readings[0].facts.len())
            .collect();
        assert!(facts[0] > 3 && facts[1] == 0, "{facts:?}");
    }

    #[test]
    fn bring_up_lines_are_known() {
        let log = "[    0.0] virt/tdx: BIOS enabled: private KeyID range [64, 128)\n\
                   [    5.1] virt/tdx: CMR: [0x100000, 0x77800000)\n\
                   [    5.2] virt/tdx: 1050644 KB allocated for PAMT\n\
                   [    5.3] virt/tdx: module initialized\n\
                   [    9.9] tdx: Unexpected #VE: 30";
        assert_eq!(
            titles(log),
            [
                "private key IDs: [64, 128)",
                "CMR: [0x100000, 0x77800000), 1.9 GiB",
                "PAMT: 1050644 KB",
                "message: module initialized",
                "message: unexpected #ve",
                "TD exit: IO_INSTRUCTION",
            ]
        );
    }
}
