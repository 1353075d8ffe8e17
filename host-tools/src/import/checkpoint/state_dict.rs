//! Which of the dictionaries in a checkpoint holds the network's weights.
//!
//! Training scripts save them under `state_dict`, `net`, `model`, …, beside optimiser states and running averages, or save
//! the module itself. The weights are the dictionary or module with the most floating-point tensors of its own.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail, ensure};

use super::{
    pickle::Value,
    torch_file::{TensorPlace, TorchFile},
};

/// How deeply dictionaries and modules may contain each other.
const MOST_LEVELS: usize = 32;
/// How many modules and tensors a file may have, counting those that are in several places each time.
const MOST_VISITS: usize = 1 << 16;
/// Attributes of a module; its own dictionaries are among the first.
const MOST_ATTRIBUTES: usize = 256;
/// Bytes of a name, with its module's.
const LONGEST_NAME: usize = 1 << 10;

/// Tensors by name, and where they were found.
struct Found {
    /// Keys from the top of the file: `checkpoint.model_ema`; empty for the file's own dictionary.
    path: String,
    tensors: BTreeMap<String, TensorPlace>,
}

impl Found {
    fn floating(&self) -> usize {
        self.tensors.values().filter(|tensor| tensor.is_floating() && !tensor.dims.is_empty()).count()
    }

    /// Whether it is named as a running average of the weights.
    fn is_average(&self) -> bool {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric());
        words.map(str::to_ascii_lowercase).any(|word| ["ema", "swa", "average", "averaged", "shadow"].contains(&&*word))
    }

    fn title(&self) -> &str {
        if self.path.is_empty() { "the file's own tensors" } else { &self.path }
    }
}

/// The tensors of the network in a file, by name. Warns where others may have been meant.
///
/// # Errors
/// The file has no floating-point tensors, or is too deep.
pub fn find(file: &TorchFile<'_>) -> Result<BTreeMap<String, TensorPlace>> {
    let mut search = Search { file, seen: HashSet::new(), found: Vec::new(), visits: 0 };
    search.visit(file.pickle.root, "", 0)?;
    let mut found = search.found;
    let most = found.iter().map(Found::floating).max().unwrap_or(0);
    if most == 0 {
        ensure!(!file.pickle.makes("numpy."), "{NUMPY}");
        bail!("it has no floating-point tensors: save the weights by `torch.save(model.state_dict(), \"model.pth\")`");
    }
    // A network beside a student, a discriminator or its running average; not an optimiser's state of one layer.
    found.retain(|found| 2 * found.floating() > most);
    found.sort_by_key(|found| (found.is_average(), std::cmp::Reverse(found.floating())));
    let mut found = found.into_iter();
    let taken = found.next().context("it has no tensors")?;
    let others: Vec<String> = found.map(|other| other.title().to_owned()).collect();
    if !others.is_empty() {
        log::warn!(
            "the file has several sets of weights: took {}, not {} (to take another, save it alone by `torch.save`)",
            taken.title(),
            others.join(", ")
        );
    } else if !taken.path.is_empty() {
        log::info!("took the weights under {}", taken.path);
    }
    Ok(taken.tensors)
}

const NUMPY: &str = "its values are numpy arrays, not tensors: save them again: `torch.save({name: torch.as_tensor(array) for \
                     name, array in torch.load(\"FILE\", weights_only=False).items()}, \"model.pth\")`";

struct Search<'a> {
    file: &'a TorchFile<'a>,
    /// Objects that were looked into.
    seen: HashSet<usize>,
    found: Vec<Found>,
    visits: usize,
}

impl Search<'_> {
    fn visit(&mut self, value: Value, path: &str, level: usize) -> Result<()> {
        let Value::Object(place) = value else { return Ok(()) };
        if level > MOST_LEVELS || !self.seen.insert(place) || self.file.tensor(value).is_some() {
            return Ok(());
        }
        let file = self.file;
        let pickle = &file.pickle;
        ensure!(path.len() <= LONGEST_NAME, "its names are too long");
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let mut tensors = BTreeMap::new();
        if self.is_module(value) {
            self.module(value, "", &mut tensors, 0)?;
            self.found.push(Found { path: path.to_owned(), tensors });
            return Ok(());
        }
        if let Some(elements) = pickle.elements(value) {
            for (index, &element) in elements.iter().enumerate() {
                self.visit(element, &below(&index.to_string()), level + 1)?;
            }
        }
        let Some(made) = pickle.made(value) else { return Ok(()) };
        for (key, value) in pickle.named(value) {
            match file.tensor(value) {
                Some(tensor) => {
                    self.count()?;
                    tensors.insert(key.to_owned(), tensor);
                }
                None => self.visit(value, &below(key), level + 1)?,
            }
        }
        if !tensors.is_empty() {
            self.found.push(Found { path: path.to_owned(), tensors });
        }
        self.visit(made.state, path, level + 1)
    }

    /// Objects may share a dictionary, so a small file can name its tensors many times.
    fn count(&mut self) -> Result<()> {
        self.visits += 1;
        ensure!(self.visits <= MOST_VISITS, "it has more than {MOST_VISITS} modules and tensors");
        Ok(())
    }

    /// A pickled `torch.nn.Module` keeps its tensors and modules in dictionaries of these names.
    fn is_module(&self, value: Value) -> bool {
        self.attribute(value, "_parameters").is_some() && self.attribute(value, "_modules").is_some()
    }

    fn attribute(&self, value: Value, name: &str) -> Option<Value> {
        let state = self.file.pickle.made(value)?.state;
        self.file.pickle.first_named(state, MOST_ATTRIBUTES).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Adds a module's tensors, under the names that its state dictionary has.
    fn module(
        &mut self,
        value: Value,
        prefix: &str,
        tensors: &mut BTreeMap<String, TensorPlace>,
        level: usize,
    ) -> Result<()> {
        ensure!(level <= MOST_LEVELS && prefix.len() <= LONGEST_NAME, "its modules contain each other too deeply");
        for kind in ["_parameters", "_buffers"] {
            let Some(dictionary) = self.attribute(value, kind) else { continue };
            let file = self.file;
            for (name, value) in file.pickle.named(dictionary) {
                self.count()?;
                if let Some(tensor) = file.tensor(value) {
                    tensors.insert(format!("{prefix}{name}"), tensor);
                }
            }
        }
        let Some(modules) = self.attribute(value, "_modules") else { return Ok(()) };
        let file = self.file;
        for (name, module) in file.pickle.named(modules) {
            self.count()?;
            self.module(module, &format!("{prefix}{name}."), tensors, level + 1)?;
        }
        Ok(())
    }
}
