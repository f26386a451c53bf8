//! Recorded cases: what a processor made of one instruction of each form, replayed in the engine on any host.
#![forbid(unsafe_code)]

use native_cpu::compare::{differences, unlike};
use native_cpu::engine::Guest;
use native_cpu::record::{decode, parse};
use x86_engine::EngineKind;

/// `data/recorded.cases` is written by `cargo run -p native_cpu -- --record`.
#[test]
fn the_engines_do_what_was_recorded() {
    let mut guest = Guest::new();
    let others = [EngineKind::Translator, EngineKind::Lockstep].map(Guest::with);
    let others = others.into_iter().filter(|guest| guest.refused().is_none());
    let mut others: Vec<Guest> = others.collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (number, line) in include_str!("../data/recorded.cases").lines().enumerate() {
        let (case, expected) =
            parse(line).unwrap_or_else(|| panic!("line {}: no case: {line}", number + 1));
        let engine = guest.run(&case);
        let mut found = differences(&decode(&case.bytes), &case, &expected, &engine);
        for other in &mut others {
            found.extend(unlike(&engine, &other.run(&case)));
        }
        if !found.is_empty() {
            wrong.push(format!(
                "line {}: {line}\n    {}",
                number + 1,
                found.join("\n    ")
            ));
        }
        count += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count > 1500, "only {count} cases");
}
