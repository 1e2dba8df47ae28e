//! The blocks of a Markdown file, and the commands in them.
//!
//! In a block ```` ```console ```` a command starts with `$ ` and ends with its line, its here-document, or its closing
//! quote; what follows is what it prints. One that ends with ` &` goes on running. A command that readers needn't see is
//! a comment, `<!-- $ COMMAND -->`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A block between fences, or a command in a comment.
#[derive(Debug)]
pub(crate) struct Block {
    /// From the folder of the project.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The heading that it stands under.
    pub(crate) heading: String,
    /// What stands behind the fence.
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// A command, and what it prints; none: nobody is told.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) output: Option<String>,
    /// It goes on running.
    pub(crate) is_left_running: bool,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documents that people read, from the folder of the project.
pub(crate) fn documents() -> Vec<String> {
    let mut found = vec!["README.md".to_owned()];
    let mut folders = vec!["docs".to_owned(), "deploy".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = format!("{folder}/{}", entry.file_name().to_str().expect("UTF-8"));
            if entry.file_type().expect("a type").is_dir() {
                folders.push(name);
            } else if Path::new(&name).extension().is_some_and(|it| it == "md") {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The blocks of a document.
pub(crate) fn blocks(file: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut heading = String::new();
    let mut open: Option<Block> = None;
    for (index, line) in text(file).lines().enumerate() {
        let block = |language: &str, text: String| Block {
            file: file.to_owned(),
            line: index + 1,
            heading: heading.clone(),
            language: language.to_owned(),
            text,
        };
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some(block(language, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {
                if let Some(command) = line.strip_prefix("<!-- $ ") {
                    let command = command.strip_suffix(" -->").expect("a comment of one line");
                    blocks.push(block("hidden", format!("$ {command}\n")));
                } else if line.starts_with('#') {
                    line.trim_start_matches(['#', ' ']).clone_into(&mut heading);
                }
            }
        }
    }
    assert!(open.is_none(), "{file}: a block that isn't closed");
    blocks
}

/// The steps of a block.
pub(crate) fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = block.text.lines();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            let step = steps.last_mut().unwrap_or_else(|| panic!("{}: {line}", block.place()));
            let output = step.output.get_or_insert_default();
            output.push_str(line);
            output.push('\n');
            continue;
        };
        let mut command = command.to_owned();
        let is_open = |command: &str| {
            let has_document = command.contains("<<'END'");
            has_document && !command.ends_with("\nEND")
                || !has_document && command.matches('\'').count() % 2 == 1
        };
        while is_open(&command) {
            command = format!("{command}\n{}", lines.next().expect("the rest of a command"));
        }
        let left = command.strip_suffix(" &").map(str::to_owned);
        let is_left_running = left.is_some();
        let output = (block.language != "hidden").then(String::new);
        steps.push(Step { command: left.unwrap_or(command), output, is_left_running });
    }
    steps
}

/// The commands of ours in the text around the blocks, such as `bulrush lab down`.
pub(crate) fn mentioned(file: &str) -> Vec<String> {
    let mut is_inside = false;
    let mut paragraphs = vec![String::new()];
    for line in text(file).lines() {
        is_inside ^= line.starts_with("```");
        if line.is_empty() || line.starts_with("```") {
            paragraphs.push(String::new());
        } else if let Some(paragraph) = paragraphs.last_mut().filter(|_| !is_inside) {
            paragraph.push_str(line);
            paragraph.push(' ');
        }
    }
    let spans = paragraphs.iter().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    spans.filter(|it| it.starts_with("bulrush ")).map(str::to_owned).collect()
}
