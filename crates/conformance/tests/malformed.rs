//! What is no trace is refused with its line and with what was expected.

use conformance::{Replay, ReplayError, TraceReader, fuzz_trace};
use proptest::prelude::*;

const HEADER: &str = r#"{"trace":1,"name":"n","about":"a","module":"m","platform":{"lps":2,"packages":1,"lp_package":[0,0],"lp_x2apic":[0,1],"phys_addr_bits":52,"keyid_bits":6,"private_keyids":[32,63],"global_keyid":32,"cmrs":[{"base":"0x100000","size":"0x100000"}],"seamrr":{"base":"0x80000000","size":"0x2000000"},"cache_wb_sub_blocks":4,"cpuid":[["0x1","0xffffffff","0x1","0x2","0x3","0x4"]],"msr":{"0x1b":"0xfee00c00"}},"gpr_default":{"rcx":"0x1"}}"#;

/// The error of a trace of the header and these lines.
fn error_of(lines: &[&str]) -> String {
    let text = format!("{HEADER}\n{}\n", lines.join("\n"));
    let mut trace = TraceReader::new(text.as_bytes()).expect("a good header");
    loop {
        match trace.next_op() {
            Ok(Some(_)) => {}
            Ok(None) => return "no error".into(),
            Err(e) => return e.to_string(),
        }
    }
}

#[test]
fn every_malformed_line_says_what_was_expected() {
    let entry = r#"{"act":"entry","gprs":{"rax":"0x0","rcx":"0x0","rdx":"0x0","rbx":"0x0","rbp":"0x0","rsi":"0x0","rdi":"0x0","r8":"0x0","r9":"0x0","r10":"0x0","r11":"0x0","r12":"0x0","r13":"0x0","r14":"0x0","r15":"0x0"},"rip":"0x0","rsp":"0x0","rflags":"0x2","xmm":{}}"#;
    let exit = r#"{"act":"nmi","vmx":{"reason":0},"exit":true}"#;
    let call = |acts: &str| {
        format!(
            r#"{{"op":"seamcall","lp":0,"leaf":"x","in":{{"rax":"0x0"}},"out":{{"rax":"0x0"}},"status":"TDX_SUCCESS","xmm_out":{{}},"guest":[{acts}]}}"#
        )
    };
    let acts = |middle: &str| call(&format!("{entry},{middle},{exit}"));
    assert_eq!(error_of(&[&call(&format!("{entry},{exit}"))]), "no error");
    let nested = format!(
        r#"{{"act":"host","ops":[{}]}}"#,
        r#"{"op":"seamcall","lp":0,"leaf":"x","in":{"rax":"0x0"},"out":{"rax":"0x0"},"status":"s"}"#
    );
    let deep_reset = r#"{"act":"host","ops":[{"op":"reset"}]}"#;
    let rows: &[(&str, &str)] = &[
        ("", "expected an operation"),
        (
            "{\"op\":\"note\",\"text\":\"cut",
            "EOF while parsing a string",
        ),
        (
            r#"{"op":"jump"}"#,
            "unknown variant `jump`, expected one of `write`",
        ),
        (
            r#"{"op":"note","text":"t","more":1}"#,
            "unknown field `more`",
        ),
        (r#"{"op":"note"}"#, "missing field `text`"),
        (
            r#"{"op":"write","pa":16,"hex":""}"#,
            "expected a 64-bit number \"0x..\"",
        ),
        (
            r#"{"op":"write","pa":"0x0","hex":"123"}"#,
            "expected an even number of hex digits",
        ),
        (
            r#"{"op":"read","pa":"0x0","hex":"00","ignore":[[1,1]]}"#,
            "expected a range within 1 bytes",
        ),
        (
            r#"{"op":"set_msr","lp":2,"msr":"0x10","value":"0x0"}"#,
            "lp 2: expected one of the 2 processors",
        ),
        (
            r#"{"op":"set_msr","lp":0,"msr":"0x100000000","value":"0x0"}"#,
            "expected a 32-bit address",
        ),
        (
            r#"{"op":"intr_pending","lp":0,"bits":8}"#,
            "expected bits 0 to 2 only",
        ),
        (
            r#"{"op":"seamcall","lp":0,"leaf":"x","in":{},"out":{"rax":"0x0"},"status":"s"}"#,
            "expected rax, the leaf",
        ),
        (
            r#"{"op":"seamcall","lp":0,"leaf":"x","in":{"rax":"0x0"}}"#,
            "expected either out or module_shutdown",
        ),
        (
            r#"{"op":"seamcall","lp":0,"leaf":"x","in":{"rsp":"0x0"},"out":{"rax":"0x0"}}"#,
            "other than rsp",
        ),
        (
            r#"{"op":"seamcall","lp":0,"leaf":"x","in":{"rax":"0x0","rax":"0x1"},"out":{"rax":"0x0"}}"#,
            "rax stands twice",
        ),
        (
            r#"{"op":"reset","cmrs":[{"base":"0xffffffffffffffff","size":"0x2"}]}"#,
            "expected an end below 2^64",
        ),
        (&call(exit), "expected entry as the first act"),
        (&call(entry), "expected exit: true on the last act"),
        (
            &acts(r#"{"act":"dance"}"#),
            "act \"dance\": expected one of FORMAT.md, or key vmx",
        ),
        (
            &acts(r#"{"act":"long_mode","bits":1}"#),
            "key bits does not belong to this act",
        ),
        (
            &acts(r#"{"act":"cpuid","vmx":{"reason":10,"more":"0x0"},"out":{}}"#),
            "unknown field `more`",
        ),
        (
            &acts(r#"{"act":"cpuid","vmx":{"reason":10}}"#),
            "expected key out, exit or shutdown",
        ),
        (
            &acts(exit),
            "expected the act that leaves the TD to be the last",
        ),
        (&acts(r#"{"act":"set","xmm":["0x0"]}"#), "16 XMM values"),
        (&acts(&nested), "expected another lp than 0"),
        (&acts(deep_reset), "expected no reset while a vCPU runs"),
    ];
    for (line, expected) in rows {
        let note = r#"{"op":"note","text":"line 2"}"#;
        let error = error_of(&[note, line]);
        assert!(
            error.starts_with("line 3: ") && error.contains(expected),
            "{line}\n gave: {error}"
        );
    }
}

#[test]
fn a_bad_header_is_refused_at_line_1() {
    let cut = &HEADER[..200];
    let wrong_version = HEADER.replace("\"trace\":1", "\"trace\":2");
    let wrong_lps = HEADER.replace("\"lps\":2", "\"lps\":3");
    let too_many_bits = HEADER.replace("\"keyid_bits\":6", "\"keyid_bits\":60");
    let no_package = HEADER.replace("\"lp_package\":[0,0]", "\"lp_package\":[0,1]");
    for text in [
        "",
        cut,
        &wrong_version,
        &wrong_lps,
        &too_many_bits,
        &no_package,
    ] {
        let Err(error) = TraceReader::new(text.as_bytes()) else {
            panic!("taken for a trace: {text}");
        };
        let error = error.to_string();
        assert!(
            error.starts_with("line 1: ") && error.contains("expected"),
            "{error}"
        );
    }
}

#[test]
fn a_captured_name_must_exist() {
    let call = r#"{"op":"seamcall","lp":0,"leaf":"x","in":{"rax":"0x0"},"from":{"rcx":"nobody"},"out":{"rax":"0x0"},"status":"s"}"#;
    let text = format!("{HEADER}\n{call}\n");
    let mut replay = Replay::new(text.as_bytes()).expect("a good header");
    let Err(ReplayError::Read(error)) = replay.step() else {
        panic!("played a name that was never captured");
    };
    assert!(
        error
            .to_string()
            .contains("line 2: from \"nobody\": expected a name"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..900, byte: u8) {
        let mut text = HEADER.as_bytes().to_vec();
        text.push(b'\n');
        text.extend(&tail);
        fuzz_trace(&text);
        conformance::show::fuzz_rows(&text);
        let at = at % text.len();
        text[at] = byte;
        fuzz_trace(&text);
        conformance::show::fuzz_rows(&text);
    }
}
