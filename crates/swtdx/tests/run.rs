//! `swtdx run`, as a user sees it.

mod program;

use program::swtdx;

/// The summary of a run, which must have ended with this exit status.
fn summary(args: &[&str], exit_status: u8) -> serde_json::Value {
    let text = swtdx(&[&["run", "--json", "--quiet"], args].concat(), "");
    let (status, rest) = text.split_once("\n--- output\n").expect("a status line");
    assert_eq!(status, format!("exit status {exit_status}"), "{rest}");
    let (json, _) = rest.split_once("--- errors\n").expect("two streams");
    serde_json::from_str(json).expect("JSON")
}

/// The same without the wall time.
fn deterministic(args: &[&str]) -> serde_json::Value {
    let mut summary = summary(args, 0);
    summary["wall_ms"] = 0.into();
    summary
}

#[test]
fn the_embedded_guest_lives_on_1_2_and_4_vcpus_the_same_in_every_run() {
    let mut instructions = Vec::new();
    for cpus in ["1", "2", "4"] {
        let run = deterministic(&["--cpus", cpus, "--memory", "64M"]);
        assert_eq!(run["end"], "powered off");
        let report = &run["report"];
        assert_eq!(report["mac_holds"], true);
        assert_eq!(report["hashes_hold"], true);
        assert_eq!(report["mrtd_expected"], true);
        assert_eq!(report["mrtd"], run["mrtd"]);
        assert_ne!(
            report["rtmrs"][2],
            "00".repeat(48),
            "the guest extends RTMR 2"
        );
        assert_eq!(run["teardown"]["lost_pages"], 0);
        assert_eq!(run["teardown"]["lost_hkids"], 0);
        assert_eq!(
            run["pages"]["removed"], 1,
            "one page was shared for a while"
        );
        assert_eq!(run, deterministic(&["--cpus", cpus, "--memory", "64M"]));
        instructions.push(run["instructions"].as_u64());
    }
    assert!(instructions.is_sorted() && instructions[0] > Some(10_000));
}

#[test]
fn every_engine_runs_the_embedded_guest_to_the_same_console_counts_and_end() {
    let folder = env!("CARGO_TARGET_TMPDIR");
    for cpus in ["1", "2"] {
        let of = |engine: &str| {
            let file = format!("{folder}/console-{engine}-{cpus}");
            let args = ["--cpus", cpus, "--memory", "64M", "--console", &file];
            let mut run = deterministic(&[&["--engine", engine], &args[..]].concat());
            let told = run["translator"].take();
            (run, told, std::fs::read(file).expect("the console"))
        };
        let (interpreted, nothing, console) = of("interpreter");
        assert!(nothing.is_null(), "{nothing}");
        assert!(console.len() > 1000, "{} bytes", console.len());
        for engine in ["translator", "lockstep"] {
            let (run, told, same) = of(engine);
            assert_eq!(run, interpreted, "{engine}, {cpus} vCPUs");
            assert!(same == console, "{engine}, {cpus} vCPUs: the console");
            assert!(told["blocks"].as_u64() > Some(0), "{told}");
            assert!(told["code_bytes"].as_u64() > Some(4096), "{told}");
            let bytes = told["code_bytes"]
                .as_u64()
                .zip(told["table_bytes"].as_u64());
            assert!(
                bytes.is_some_and(|(code, tables)| code + tables < 256 << 20),
                "{told}"
            );
        }
    }
}

#[test]
fn in_real_time_every_vcpu_has_a_thread_and_the_td_is_the_same() {
    let slow = deterministic(&["--cpus", "4", "--memory", "64M"]);
    for _ in 0..3 {
        let run = summary(&["--realtime", "--cpus", "4", "--memory", "64M"], 0);
        assert_eq!(run["end"], "powered off");
        for part in ["mrtd", "report", "module"] {
            assert_eq!(run[part], slow[part], "{part}");
        }
        for part in ["added", "removed", "shared"] {
            assert_eq!(run["pages"][part], slow["pages"][part], "{part}");
        }
        assert_eq!(run["teardown"]["lost_pages"], 0);
        assert_eq!(run["teardown"]["lost_hkids"], 0);
    }
}

#[test]
fn a_large_td_costs_its_host_what_the_guest_writes() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["run", "--quiet", "--memory", "8G"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // The line is gone once the process is a zombie.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("a child") {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(ended.success());
    assert!((1..512 << 10).contains(&peak), "{peak} KiB for 8 GiB");
}

#[test]
fn the_scripted_guest_needs_no_engine() {
    let run = deterministic(&["--scripted", "--memory", "32M"]);
    assert_eq!(run["end"], "powered off");
    assert_eq!(run["instructions"], 0);
    assert_eq!(run["report"]["mrtd_expected"], true);
    assert_eq!(
        run["pages"]["demoted"], 1,
        "a page of an accepted 2 MiB page was shared"
    );
}

#[test]
fn what_the_td_is_made_of_shows_in_its_report() {
    let owner = "0f".repeat(48);
    let args = [
        "--scripted",
        "--memory",
        "32M",
        "--debug-td",
        "--mrowner",
        &owner,
    ];
    let run = deterministic(&args);
    assert_eq!(run["report"]["attributes"], "0x10000001");
    let wide = deterministic(&["--memory", "32M", "--gpaw", "52"]);
    assert_eq!(wide["end"], "powered off");
}

#[test]
fn a_dry_run_prints_parameters_that_read_back_and_names_the_option_that_is_wrong() {
    let file = std::env::temp_dir().join(format!("swtdx-td-params-{}", std::process::id()));
    let path = file.to_str().expect("UTF-8");
    let given = ["run", "--quiet", "--dry-run", "--attributes", "10000001"];
    let shape = [
        "--xfam",
        "0x7",
        "--gpaw",
        "52",
        "--cpuid",
        "1:EAX=806f8",
        "--tsc-khz",
        "2000000",
    ];
    let text = swtdx(&[&given[..], &shape].concat(), "");
    let toml = text
        .strip_prefix("exit status 0\n--- output\n")
        .and_then(|rest| rest.strip_suffix("--- errors\n"))
        .unwrap_or_else(|| panic!("{text}"));
    std::fs::write(&file, toml).expect("a file");
    let again = swtdx(&["run", "--quiet", "--dry-run", "--td-params", path], "");
    assert_eq!(again, text);
    let params = summary(&["--dry-run", "--td-params", path, "--gpaw", "48"], 0);
    assert_eq!(params["attributes"], "0x10000001");
    assert_eq!(params["xfam"], "0x7");
    assert_eq!(params["gpaw"], 48);
    assert_eq!(params["cpuid"], serde_json::json!(["1:EAX=0x806f8"]));
    assert_eq!(params["module"], "1.5-linux");
    std::fs::write(&file, "gpaw = 50").expect("a file");
    let cases: &[(&[&str], &str)] = &[
        (&["--attributes", "2"], "swtdx: --attributes: "),
        (&["--xfam", "1"], "swtdx: --xfam: "),
        (&["--tsc-khz", "1"], "swtdx: --tsc-khz: "),
        (&["--cpuid", "2:EAX=1"], "swtdx: --cpuid 2: "),
        (&["--cpuid", "1:EXX=1"], "--cpuid <LEAF[.SUB]:REG=VALUE>"),
        (&["--td-params", path], "gpaw: 48 or 52"),
    ];
    for (args, wanted) in cases {
        let text = swtdx(&[&["run", "--quiet", "--dry-run"], *args].concat(), "");
        assert!(text.starts_with("exit status 1\n"), "{args:?}: {text}");
        assert!(text.contains(wanted), "{args:?}: {text}");
    }
    let _ = std::fs::remove_file(&file);
}

#[test]
fn an_older_module_without_x2apic_ids_runs_the_same_guest() {
    let path = std::env::temp_dir().join(format!("swtdx-run-module-{}", std::process::id()));
    let trace = format!("--trace={}", path.display());
    for (module, call) in [
        ("1.5.01", "TDH.VP.INIT TDVPR"),
        ("1.5-linux", "TDH.VP.INIT v1 TDVPR"),
    ] {
        summary(
            &["--scripted", "--memory", "32M", "--module", module, &trace],
            0,
        );
        let lines = std::fs::read_to_string(&path).expect("a trace");
        assert!(lines.contains(call), "{module}");
    }
    let _ = std::fs::remove_file(&path);
}

#[test]
fn a_trace_names_every_call_and_what_crossed() {
    let path = std::env::temp_dir().join(format!("swtdx-run-trace-{}", std::process::id()));
    let trace = format!("--trace={}", path.display());
    let run = summary(&["--scripted", "--memory", "32M", &trace], 0);
    let lines = std::fs::read_to_string(&path).expect("a trace");
    let _ = std::fs::remove_file(&path);
    assert!(lines.starts_with("LP 0  TDH.SYS.INIT"));
    let count = |name: &str| lines.lines().filter(|line| line.contains(name)).count() as u64;
    assert_eq!(
        count("TDH.VP.ENTER"),
        run["entries"].as_u64().expect("a number")
    );
    assert_eq!(
        count("TDH.MEM.PAGE.ADD"),
        run["pages"]["added"].as_u64().expect("a number")
    );
    assert_eq!(count("TDH.MNG.KEY.FREEID"), 1);
}

#[test]
fn a_fault_that_passes_is_survived_and_one_that_stays_is_named() {
    let busy = [
        "--scripted",
        "--memory",
        "32M",
        "--fault",
        "busy:TDH.MEM.RANGE.BLOCK@1+3",
    ];
    assert_eq!(summary(&busy, 0)["end"], "powered off");
    let broken = swtdx(
        &[
            "run",
            "--quiet",
            "--scripted",
            "--memory",
            "32M",
            "--fault",
            "OPERAND_INVALID:TDH.MEM.TRACK",
        ],
        "",
    );
    assert!(broken.starts_with("exit status 6\n"), "{broken}");
    assert!(
        broken.contains("swtdx: taking the TD down: ")
            || broken.contains("swtdx: running the TD: "),
        "{broken}"
    );
    assert!(broken.contains("TDH.MEM.TRACK"), "{broken}");
}

#[test]
fn wrong_input_is_named_in_one_line() {
    let folder = std::env::temp_dir().join(format!("swtdx-run-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let elf = file("vmlinux", &[b"\x7fELF".as_slice(), &[0; 8192]].concat());
    let empty = file("empty", b"");
    let noise = file("noise", &[0xA5; 8192]);
    let odd = file("odd", &[0; 1000]);
    let absent = folder.join("absent").to_str().expect("UTF-8").to_owned();
    let cases: &[(&[&str], &str)] = &[
        (&["--kernel", &elf], "it is an ELF file (vmlinux?)"),
        (&["--kernel", &empty], "it has no HdrS signature"),
        (&["--kernel", &absent], "No such file"),
        (&["--firmware", &noise], "no TDVF metadata"),
        (&["--firmware", &empty], "no TDVF metadata"),
        (&["--memory", "1M"], "whole 4 KiB pages from 16M"),
        (&["--cpus", "0"], "0 is not in 1..=576"),
        (&["--cpus", "577"], "577 is not in 1..=576"),
        (&["--tsc-khz", "1"], "TSC frequency in kHz"),
        (&["--mrowner", "00"], "96 hexadecimal digits"),
        (&["--initrd", &noise], "--kernel"),
        (&["--module", "2.0"], "one of 1.5.01, 1.5-linux"),
        (&["--fault", "busy:TDH.NO.SUCH"], "TDH.NO.SUCH"),
        (&["--disk", &odd], "1000 bytes are no whole number"),
        (&["--disk", &empty], "the file is empty"),
        (&["--disk", &absent], "No such file"),
        (&["--disk", "/dev/null"], "it is no regular file"),
        (&["--disk", ",ro"], "a file, or FILE,ro"),
        (
            &["--disk", &noise, "--disk", &noise],
            "another disk or program",
        ),
    ];
    for (args, wanted) in cases {
        let text = swtdx(&[&["run", "--quiet"], *args].concat(), "");
        assert!(
            text.starts_with("exit status 1\n--- output\n--- errors\n"),
            "{args:?}: {text}"
        );
        assert!(text.contains(wanted), "{args:?}: {text}");
    }
    let _ = std::fs::remove_dir_all(&folder);
}
