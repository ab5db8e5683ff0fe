//! Preference pairs as TRL and the Hugging Face data sets have them: JSON lines, plain or gzipped.

use std::{
    fmt::Write,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

/// A prompt with a better and a worse completion.
pub struct Preference {
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
}

/// What a file holds.
pub struct Source {
    /// How messages name it.
    pub name: String,
    /// Each with its line number, from 1.
    pub preferences: Vec<(usize, Preference)>,
}

/// The pairs that ship with the program, written by `make_preferences.py`.
pub fn shipped() -> anyhow::Result<Source> {
    parse("the shipped preferences.jsonl", include_bytes!("../data/preferences.jsonl").as_slice())
}

/// Reads FILE, unpacking it if it begins as gzip does.
pub fn read(path: &Path) -> anyhow::Result<Source> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    let mut reader = BufReader::new(file);
    let gzipped = reader.fill_buf().with_context(|| name.clone())?.starts_with(&[0x1f, 0x8b]);
    if gzipped { parse(&name, BufReader::new(MultiGzDecoder::new(reader))) } else { parse(&name, reader) }
}

fn parse(name: &str, mut lines: impl BufRead) -> anyhow::Result<Source> {
    let mut preferences = Vec::new();
    let mut bytes = Vec::new();
    for number in 1.. {
        let place = || format!("{name}:{number}");
        bytes.clear();
        if lines.read_until(b'\n', &mut bytes).with_context(place)? == 0 {
            break;
        }
        let line = str::from_utf8(&bytes).with_context(place)?.trim().trim_start_matches('\u{feff}');
        if !line.is_empty() {
            preferences.push((number, preference(line).with_context(place)?));
        }
    }
    ensure!(!preferences.is_empty(), "{name}: no preference pairs in it");
    Ok(Source { name: name.into(), preferences })
}

fn preference(line: &str) -> anyhow::Result<Preference> {
    let row: Value = serde_json::from_str(line).map_err(invalid_json)?;
    let Value::Object(row) = row else { bail!("expected a JSON object, found {}", type_name(&row)) };
    let prompt = field(&row, "prompt")?;
    let chosen = field(&row, "chosen")?.context("no field `chosen`")?;
    let rejected = field(&row, "rejected")?.context("no field `rejected`")?;
    ensure!(chosen != rejected, "`chosen` and `rejected` are the same");

    let (prompt, chosen, rejected) = match (prompt, &chosen, &rejected) {
        (Some(Field::Text(prompt)), Field::Text(chosen), Field::Text(rejected)) => {
            (prompt, chosen.clone(), rejected.clone())
        }
        (None, Field::Text(chosen), Field::Text(rejected)) => {
            let (prompt, chosen_rest) = chosen.split_at(prompt_end(chosen, rejected));
            ensure!(!prompt.is_empty(), "no field `prompt`, and `chosen` and `rejected` begin differently");
            (prompt.into(), chosen_rest.into(), rejected[prompt.len()..].into())
        }
        (prompt, Field::Turns(chosen), Field::Turns(rejected)) => conversation(prompt, chosen, rejected)?,
        _ => bail!("`prompt`, `chosen` and `rejected` mix text and lists of turns"),
    };
    for (name, completion) in [("chosen", &chosen), ("rejected", &rejected)] {
        ensure!(!completion.trim().is_empty(), "the completion in `{name}` is empty");
    }
    Ok(Preference { prompt, chosen, rejected })
}

/// What a field may hold.
#[derive(PartialEq)]
enum Field {
    Text(String),
    Turns(Vec<Turn>),
}

/// One message of a conversation.
#[derive(PartialEq, Clone)]
struct Turn {
    role: String,
    content: String,
}

fn field(row: &Map<String, Value>, name: &str) -> anyhow::Result<Option<Field>> {
    Ok(Some(match row.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) => {
            ensure!(!text.trim().is_empty(), "`{name}` is empty");
            Field::Text(text.clone())
        }
        Some(Value::Array(turns)) => {
            ensure!(!turns.is_empty(), "`{name}` is empty");
            let turn = |(index, value)| turn(value).with_context(|| format!("`{name}`[{index}]"));
            Field::Turns(turns.iter().enumerate().map(turn).collect::<anyhow::Result<_>>()?)
        }
        Some(other) => bail!("`{name}` is {}, expected text or a list of turns", type_name(other)),
    }))
}

fn turn(value: &Value) -> anyhow::Result<Turn> {
    let text = |name| match value.get(name) {
        Some(Value::String(text)) if text.trim().is_empty() => bail!("`{name}` is empty"),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => bail!("`{name}` is {}, expected text", type_name(other)),
        None if value.is_object() => bail!("no field `{name}`"),
        None => bail!("{}, expected an object with `role` and `content`", type_name(value)),
    };
    Ok(Turn { role: text("role")?, content: text("content")? })
}

/// Where the prompt ends in two texts that both hold it: after the last `\n\nAssistant:` (as in hh-rlhf) that they
/// share, or else where they part.
fn prompt_end(chosen: &str, rejected: &str) -> usize {
    const ANSWER: &str = "\n\nAssistant:";
    let same = chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b);
    let shared = &chosen[..same.map(|(a, _)| a.len_utf8()).sum()];
    shared.rfind(ANSWER).map_or(shared.len(), |start| start + ANSWER.len())
}

/// Prompt and completions as text. The prompt may be a list of turns, the text of one (of the user), or what both
/// conversations begin with.
fn conversation(prompt: Option<Field>, chosen: &[Turn], rejected: &[Turn]) -> anyhow::Result<(String, String, String)> {
    let shared = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
    let (prompt, start) = match prompt {
        Some(Field::Turns(turns)) => (turns, 0),
        Some(Field::Text(text)) if shared == 0 => (vec![Turn { role: "user".into(), content: text }], 0),
        Some(Field::Text(text)) => {
            let repeated = chosen[..shared].iter().any(|turn| turn.content == text);
            ensure!(repeated, "`prompt` is in none of the turns that `chosen` and `rejected` begin with");
            (chosen[..shared].to_vec(), shared)
        }
        None => {
            ensure!(shared > 0, "no field `prompt`, and `chosen` and `rejected` begin with different turns");
            (chosen[..shared].to_vec(), shared)
        }
    };
    let answer = |name: &str, turns: &[Turn]| match turns {
        [] => bail!("the completion in `{name}` is empty"),
        [first, ..] if first.role != "assistant" => {
            bail!("the completion in `{name}` begins with a turn of `{}`, expected `assistant`", first.role)
        }
        [first, more @ ..] => Ok(more.iter().fold(first.content.clone(), with_turn)),
    };
    let prompt = prompt.iter().fold(String::new(), with_turn);
    Ok((prompt, answer("chosen", &chosen[start..])?, answer("rejected", &rejected[start..])?))
}

fn with_turn(mut text: String, turn: &Turn) -> String {
    let gap = if text.is_empty() { "" } else { "\n\n" };
    let _ = write!(text, "{gap}{}: {}", turn.role, turn.content); // writing to a String cannot fail
    text
}

/// serde_json's words with the column alone: the line is the file's, and is named already.
fn invalid_json(error: serde_json::Error) -> anyhow::Error {
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message);
    anyhow::anyhow!("not JSON: {what} at column {}", error.column())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
