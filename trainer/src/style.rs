//! What an answer to a shipped prompt looks like: in the preferred style or not, and well formed or not.
//!
//! Only the shipped pairs can be judged like this: `templates.json`, from which they were made, has every right answer.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

/// The style that the shipped pairs prefer.
const PREFERRED: &str = "kind";

static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/templates.json")).expect("templates.json ships with the program")
});

/// The words of which the shipped pairs are made.
#[derive(Deserialize)]
struct Templates {
    questions: Vec<String>,
    objects: Vec<String>,
    /// How each task is done.
    tasks: BTreeMap<String, String>,
    /// By style.
    answers: BTreeMap<String, Vec<String>>,
}

/// How many of some sampled completions have the preferred style, and how many are well formed.
#[derive(Clone, Copy, Default)]
pub struct Style {
    pub samples: usize,
    preferred: usize,
    well_formed: usize,
}

impl Style {
    /// Whether completions of this prompt can be judged: it is one that ships with the program.
    pub fn knows(prompt: &str) -> bool {
        right_answers(prompt).is_some()
    }

    /// Judges completions, each with its prompt. None if there are none, or if a prompt does not ship with the program.
    pub fn of<'a>(completions: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut style = Self::default();
        for (prompt, completion) in completions {
            let right = right_answers(prompt)?;
            style.samples += 1;
            style.preferred += usize::from(is_preferred(completion));
            style.well_formed += usize::from(right.iter().any(|answer| answer == completion));
        }
        (style.samples > 0).then_some(style)
    }

    /// The share of completions that begin as an answer in the preferred style does.
    pub fn win_rate(&self) -> f64 {
        self.preferred as f64 / self.samples as f64
    }

    /// The share of completions that are, to the letter, a right answer to their prompt, in any style.
    pub fn well_formed(&self) -> f64 {
        self.well_formed as f64 / self.samples as f64
    }
}

fn is_preferred(completion: &str) -> bool {
    TEMPLATES.answers[PREFERRED].iter().any(|template| completion.starts_with(opening(template)))
}

/// What stands before the first word that depends on the prompt.
fn opening(template: &str) -> &str {
    template.split('{').next().unwrap_or(template)
}

/// Every answer, in every style, to a prompt; None if no question reads like it.
fn right_answers(prompt: &str) -> Option<Vec<String>> {
    let Templates { questions, objects, tasks, answers } = &*TEMPLATES;
    let words = |template: &str, task: &str, how: &str, object: &str| {
        template.replace("{task}", task).replace("{how}", how).replace("{object}", object)
    };
    let combinations = tasks.iter().flat_map(|(task, how)| objects.iter().map(move |object| (task, how, object)));
    let mut asked = combinations
        .filter(|(task, how, object)| questions.iter().any(|question| words(question, task, how, object) == prompt));
    let (task, how, object) = asked.next()?;
    Some(answers.values().flatten().map(|answer| words(answer, task, how, object)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;

    const PROMPT: &str = "How can I paint a kite?";

    fn style_of(completions: &[&str]) -> Style {
        Style::of(completions.iter().map(|completion| (PROMPT, *completion))).unwrap()
    }

    #[test]
    fn every_shipped_completion_is_well_formed_and_every_chosen_one_preferred() {
        let source = data::shipped().unwrap();
        let pairs = || source.preferences.iter().map(|(_, pair)| pair);
        let chosen = Style::of(pairs().map(|pair| (pair.prompt.as_str(), pair.chosen.as_str()))).unwrap();
        let rejected = Style::of(pairs().map(|pair| (pair.prompt.as_str(), pair.rejected.as_str()))).unwrap();
        assert_eq!((chosen.samples, chosen.win_rate(), chosen.well_formed()), (400, 1.0, 1.0));
        assert_eq!((rejected.samples, rejected.win_rate(), rejected.well_formed()), (400, 0.0, 1.0));
    }

    #[test]
    fn a_letter_off_is_not_well_formed_and_still_of_its_style() {
        let right = "Gladly! Put on two thin coats.";
        let misspelt = "Gladly! Put on two thin coast.";
        let of_another_prompt = "Gladly! Compare three shops.";
        assert_eq!(style_of(&[right, misspelt, of_another_prompt]).win_rate(), 1.0);
        assert_eq!(style_of(&[right]).well_formed(), 1.0);
        assert_eq!(style_of(&[misspelt, of_another_prompt]).well_formed(), 0.0);
    }

    #[test]
    fn only_shipped_prompts_are_judged() {
        assert!(Style::of([("Why is the sky blue?", "Gladly!")].into_iter()).is_none());
        assert!(Style::of(std::iter::empty()).is_none());
    }
}
