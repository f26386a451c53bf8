//! Every fuzz target over its corpus: what lies in fuzz/corpus is run by `cargo test` too.

use std::path::Path;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 14] = [
    ("boot_files", tdx_devices::fuzz_boot_files),
    ("cmrs", swtdx::fuzz_cmrs),
    ("code", x86_engine::fuzz::fuzz_code),
    ("event_log", tdvf::fuzz_event_log),
    ("explain", swtdx::fuzz_explain),
    ("firmware", tdvf::fuzz_image),
    ("fw_cfg_dma", tdx_devices::fuzz_dma),
    ("guest_calls", tdx_devices::fuzz_guest),
    ("module_calls", tdx_module::testing::play),
    ("programs", x86_engine::fuzz::fuzz_programs),
    ("td_params", swtdx::fuzz_td_params),
    ("trace", conformance::fuzz_trace),
    ("virtio", tdx_devices::virtio::fuzz_driver),
    ("xrstor", x86_engine::simd::xstate::fuzz_restore),
];

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz"))
}

#[test]
fn every_target_takes_its_corpus() {
    for (name, target) in TARGETS {
        let folder = fuzz().join("corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut count = 0;
        for file in files {
            target(&std::fs::read(file.expect("a file").path()).expect("its bytes"));
            count += 1;
        }
        println!("{name}: {count} inputs");
        assert!(count >= 2, "{name}");
    }
}

#[test]
fn every_target_of_the_fuzz_workspace_is_here() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("its manifest");
    let names = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = "));
    let mut names: Vec<&str> = names.map(|name| name.trim_matches('"')).skip(1).collect();
    names.sort();
    // The client of a debugger is a test of tdx_debug, with inputs of its own.
    names.retain(|name| *name != "gdb_socket");
    let here: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, here);
}
