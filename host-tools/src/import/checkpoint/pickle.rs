//! Python's pickles as plain data: what a pickle would call is written down, nothing is called.
//!
//! A pickle is a program for a stack machine (`Lib/pickletools.py`). All objects it makes are in one list, and refer to each
//! other by their places: cycles and deep nesting cost nothing.

mod machine;

use std::rc::Rc;

use anyhow::Result;

/// A value on the machine's stack.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    Int(i64),
    /// A place in the list of objects.
    Object(usize),
    /// None, a truth value, a float, bytes, a long text: nothing here needs them.
    Other,
}

/// Something that others can refer to.
#[derive(Debug)]
pub enum Object {
    Text(Rc<str>),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// A class or a function, as `module.name`.
    Global(Rc<str>),
    /// What the pickle's writer keeps elsewhere, by its identifier.
    Persistent(Value),
    /// What a class or a function would make; also a dictionary.
    Made(Made),
}

/// An object by how it is made.
#[derive(Debug)]
pub struct Made {
    /// `module.name`; `dict` for a dictionary.
    pub by: Rc<str>,
    /// What it is called with.
    pub arguments: Value,
    /// What it holds as a dictionary.
    pub entries: Vec<(Value, Value)>,
    /// Its attributes.
    pub state: Value,
}

/// Everything that a pickle makes.
#[derive(Debug)]
pub struct Pickle {
    objects: Vec<Object>,
    /// What it stands for.
    pub root: Value,
}

impl Pickle {
    /// Reads the pickle that `bytes` begin with; also returns what follows it.
    ///
    /// # Errors
    /// It is cut off, uses operations that `torch.save` does not write, or makes more than a million objects.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8])> {
        machine::run(bytes)
    }

    fn object(&self, value: Value) -> Option<&Object> {
        let Value::Object(place) = value else { return None };
        self.objects.get(place)
    }

    pub fn text(&self, value: Value) -> Option<&str> {
        match self.object(value)? {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn global(&self, value: Value) -> Option<&str> {
        match self.object(value)? {
            Object::Global(name) => Some(name),
            _ => None,
        }
    }

    /// The elements of a tuple or of a list.
    pub fn elements(&self, value: Value) -> Option<&[Value]> {
        match self.object(value)? {
            Object::Tuple(elements) | Object::List(elements) => Some(elements),
            _ => None,
        }
    }

    pub fn made(&self, value: Value) -> Option<&Made> {
        match self.object(value)? {
            Object::Made(made) => Some(made),
            _ => None,
        }
    }

    /// The identifier of what is kept elsewhere.
    pub fn identifier(&self, value: Value) -> Option<Value> {
        match self.object(value)? {
            Object::Persistent(identifier) => Some(*identifier),
            _ => None,
        }
    }

    /// The identifiers of everything that is kept elsewhere.
    pub fn identifiers(&self) -> impl Iterator<Item = Value> {
        self.objects.iter().filter_map(|object| match object {
            Object::Persistent(identifier) => Some(*identifier),
            _ => None,
        })
    }

    /// Whether it makes an object by something in this package.
    pub fn makes(&self, package: &str) -> bool {
        self.objects.iter().any(|object| matches!(object, Object::Made(made) if made.by.starts_with(package)))
    }

    /// An object's or a dictionary's entries with a text as their key.
    pub fn named(&self, value: Value) -> impl Iterator<Item = (&str, Value)> {
        self.first_named(value, usize::MAX)
    }

    /// The same among its first `most` entries.
    pub fn first_named(&self, value: Value, most: usize) -> impl Iterator<Item = (&str, Value)> {
        let entries = self.made(value).map_or(&[][..], |made| &made.entries);
        entries.iter().take(most).filter_map(|&(key, value)| Some((self.text(key)?, value)))
    }
}
