//! What a replay found: counters and mismatches.

use std::collections::HashMap;
use std::fmt;

/// Something came out otherwise than recorded.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Mismatch {
    pub line: u64,
    /// The leaf, and inside a TD the act: `TDH.VP.ENTER, guest act 4 (cpuid)`.
    pub leaf: String,
    /// A register, or what else was compared.
    pub register: String,
    pub expected: String,
    pub got: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch {
            line,
            leaf,
            register,
            expected,
            got,
        } = self;
        write!(
            f,
            "line {line}: {leaf}: {register}: expected {expected}, got {got}"
        )
    }
}

/// What was done and compared.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Counts {
    /// Lines of the file that were read, header included.
    pub lines: u64,
    /// SEAMCALLs made, repetitions included.
    pub seamcalls: u64,
    pub guest_acts: u64,
    /// Memory contents compared, on the host side and inside the TD.
    pub memory_reads: u64,
    /// Register values compared (RIP, RFLAGS, XMM and injected events included).
    pub compared: u64,
    /// Register values left out because the recording calls them volatile.
    pub volatile: u64,
    pub mismatches: u64,
}

/// Where in the trace something happens.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) leaf: String,
}

/// Everything a replay writes down.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) counts: Counts,
    /// Found since they were last taken.
    pub(crate) mismatches: Vec<Mismatch>,
    /// Values kept under a name.
    pub(crate) captured: HashMap<String, u64>,
    /// XMM0 to XMM15 of the VMM, by processor.
    pub(crate) vmm_xmm: HashMap<u32, [u128; 16]>,
    /// The trace asked for something impossible.
    pub(crate) not_understood: Option<(u64, String)>,
}

impl Book {
    pub(crate) fn mismatch(&mut self, at: &Place, register: &str, expected: String, got: String) {
        self.counts.mismatches += 1;
        let (line, leaf, register) = (at.line, at.leaf.clone(), register.to_owned());
        self.mismatches.push(Mismatch {
            line,
            leaf,
            register,
            expected,
            got,
        });
    }

    /// Compares one value.
    pub(crate) fn compare(&mut self, at: &Place, register: &str, expected: u128, got: u128) {
        self.counts.compared += 1;
        if expected != got {
            self.mismatch(at, register, format!("{expected:#x}"), format!("{got:#x}"));
        }
    }

    /// Compares memory outside the ignored ranges, and names the first byte that differs.
    pub(crate) fn compare_bytes(
        &mut self,
        at: &Place,
        label: Option<&str>,
        expected: &[u8],
        mut got: Vec<u8>,
        ignore: &[[usize; 2]],
    ) {
        self.counts.memory_reads += 1;
        for &[offset, len] in ignore {
            got[offset..][..len].copy_from_slice(&expected[offset..][..len]);
        }
        let differs = |(a, b): (&u8, &u8)| a != b;
        let Some(first) = expected.iter().zip(&got).position(differs) else {
            return;
        };
        let words = |bytes: &[u8]| {
            let shown = bytes[first..].iter().take(16);
            shown.map(|b| format!("{b:02x}")).collect::<String>()
        };
        let label = label.map(|l| format!(" ({l})")).unwrap_or_default();
        self.mismatch(
            at,
            &format!("byte {first:#x}{label}"),
            words(expected),
            words(&got),
        );
    }

    /// The value kept under `name`.
    pub(crate) fn captured(&mut self, at: &Place, name: &str) -> u64 {
        match self.captured.get(name) {
            Some(&value) => value,
            None => {
                let what = format!("from {name:?}: expected a name that an earlier line captures");
                self.not_understood.get_or_insert((at.line, what));
                0
            }
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            lines,
            seamcalls,
            guest_acts,
            memory_reads,
            compared,
            volatile,
            mismatches,
        } = self;
        write!(
            f,
            "{lines} lines, {seamcalls} SEAMCALLs, {guest_acts} guest acts, {memory_reads} memory reads, \
             {compared} register values compared, {volatile} volatile, {mismatches} mismatches"
        )
    }
}
