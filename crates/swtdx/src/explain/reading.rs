//! What an explanation is made of, and how it is printed.

use std::io::{self, Write};

use serde::Serialize;

/// Everything known about one input.
#[derive(Serialize, Debug)]
pub struct Explanation {
    pub input: String,
    pub readings: Vec<Reading>,
}

/// One way to read an input.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct Reading {
    /// What it is read as.
    pub kind: &'static str,
    /// The reading itself, as the manual writes it.
    pub title: String,
    /// Further facts: a name and a text.
    pub facts: Vec<Fact>,
}

#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct Fact {
    pub name: &'static str,
    pub text: String,
}

impl Explanation {
    pub fn new(input: impl Into<String>, readings: Vec<Reading>) -> Explanation {
        Explanation {
            input: input.into(),
            readings,
        }
    }
}

impl Reading {
    pub fn new(kind: &'static str, title: impl ToString) -> Reading {
        Reading {
            kind,
            title: title.to_string(),
            facts: Vec::new(),
        }
    }
    /// Adds a fact.
    pub fn with(mut self, name: &'static str, text: impl ToString) -> Reading {
        self.facts.push(Fact {
            name,
            text: text.to_string(),
        });
        self
    }
    /// Adds a fact if `condition` holds.
    pub fn with_if(self, condition: bool, name: &'static str, text: impl ToString) -> Reading {
        match condition {
            true => self.with(name, text),
            false => self,
        }
    }
}

/// Prints explanations for people: the input, then each reading with its facts in two columns.
pub fn write(explanations: &[Explanation], out: &mut dyn Write) -> io::Result<()> {
    for (at, explanation) in explanations.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", printable(&explanation.input))?;
        if explanation.readings.is_empty() {
            writeln!(out, "  unknown")?;
        }
        for reading in &explanation.readings {
            writeln!(out, "  {}: {}", reading.kind, reading.title)?;
            let width = reading
                .facts
                .iter()
                .map(|fact| fact.name.len())
                .max()
                .unwrap_or(0);
            for fact in &reading.facts {
                for (line, text) in wrap(&fact.text, 96 - width).enumerate() {
                    let name = if line == 0 { fact.name } else { "" };
                    writeln!(out, "    {name:width$}  {text}")?;
                }
            }
        }
    }
    Ok(())
}

/// Without control characters, which a pasted log may hold and a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Breaks a text at spaces into lines of at most `width` characters; a longer word stays whole.
fn wrap(text: &str, width: usize) -> impl Iterator<Item = String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.into_iter()
}
