//! The stack machine that a pickle is a program for. It makes data only, and takes time and memory in proportion to its program.

use std::{collections::HashMap, rc::Rc};

use anyhow::{Context, Result, bail, ensure};

use super::{Made, Object, Pickle, Value};

/// What any pickle may make, counting objects, what is remembered and what is copied: a checkpoint of a few hundred layers with
/// its optimiser's state has some ten thousand objects.
const FREE_PARTS: usize = 1 << 17;
/// Beyond that, bytes of a pickle for each.
const BYTES_PER_PART: usize = 8;
/// Bytes of a text; a longer one is no name.
const LONGEST_TEXT: usize = 1 << 10;
/// Bytes of the name of a class and of its module.
const LONGEST_GLOBAL: usize = 128;

/// Runs the program that `bytes` begin with; also returns what follows it.
pub fn run(bytes: &[u8]) -> Result<(Pickle, &[u8])> {
    let mut machine = Machine { rest: bytes, ..Machine::default() };
    let most = FREE_PARTS.max(bytes.len() / BYTES_PER_PART);
    loop {
        let at = bytes.len() - machine.rest.len();
        let code = machine.byte()?;
        if code == b'.' {
            let root = machine.pop()?;
            return Ok((Pickle { objects: machine.objects, root }, machine.rest));
        }
        machine.step(code).with_context(|| format!("at byte {at} of its pickle"))?;
        let parts = machine.objects.len() + machine.memo.len() + machine.copied;
        ensure!(parts <= most, "its pickle of {} bytes makes more than {most} objects", bytes.len());
    }
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Value>,
    /// Where the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Entries of dictionaries that were made from lists, which are copied.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // None, truth values, floats, bytes.
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
            b'G' => self.skip(8)?,
            b'C' => self.sized_bytes(1)?,
            b'B' => self.sized_bytes(4)?,
            0x8e | 0x96 => self.sized_bytes(8)?,
            // Integers.
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let bytes = self.take(4)?.try_into()?;
                self.stack.push(Value::Int(i32::from_le_bytes(bytes).into()));
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            // Texts: Python 3's, then those of Python 2.
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'U' => self.text(1)?,
            b'T' => self.text(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(format!("{module}.{name}").into()));
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                // Both may be recalled by a few bytes, and are copied.
                ensure!(name.len() + module.len() <= LONGEST_GLOBAL, "the name of a class is too long");
                self.push(Object::Global(format!("{module}.{name}").into()));
            }
            // Tuples, lists, sets, dictionaries.
            b')' => self.push(Object::Tuple(Vec::new())),
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(code) - 0x84).context("its stack is empty")?;
                let elements = self.stack.split_off(start);
                self.push(Object::Tuple(elements));
            }
            b't' | 0x91 => {
                let elements = self.since_mark()?;
                self.push(Object::Tuple(elements));
            }
            b']' | 0x8f => self.push(Object::List(Vec::new())),
            b'l' => {
                let elements = self.since_mark()?;
                self.push(Object::List(elements));
            }
            b'}' => self.make("dict".into(), Value::Other, Vec::new()),
            b'd' => {
                let entries = pairs(&self.since_mark()?);
                self.make("dict".into(), Value::Other, entries);
            }
            b'a' => {
                let element = self.pop()?;
                self.append(&[element])?;
            }
            b'e' | 0x90 => {
                let elements = self.since_mark()?;
                self.append(&elements)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_entries(&[key, value])?;
            }
            b'u' => {
                let elements = self.since_mark()?;
                self.set_entries(&elements)?;
            }
            // Objects: REDUCE and NEWOBJ, NEWOBJ_EX, BUILD.
            b'R' | 0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.call(class, arguments)?;
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, arguments)?;
            }
            b'b' => {
                let state = self.pop()?;
                if let Some(Object::Made(made)) = self.top_object()? {
                    made.state = state;
                }
            }
            b'Q' => {
                let identifier = self.pop()?;
                self.push(Object::Persistent(identifier));
            }
            // The memo.
            0x94 => {
                let (place, top) = (u32::try_from(self.memo.len())?, self.top()?);
                self.memo.insert(place, top);
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            other => bail!("there is the operation {other:#04x}, which `torch.save` does not write"),
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).context("its pickle is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A number of `width` bytes.
    fn number(&mut self, width: usize) -> Result<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// As many bytes as a number of `width` bytes before them says.
    fn sized(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = usize::try_from(self.number(width)?)?;
        self.take(length)
    }

    fn line(&mut self) -> Result<&'a str> {
        let length = self.rest.iter().position(|&byte| byte == b'\n').context("its pickle is cut off")?;
        let line = &self.take(length + 1)?[..length];
        Ok(std::str::from_utf8(line)?)
    }

    fn skip(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    fn sized_bytes(&mut self, width: usize) -> Result<()> {
        self.sized(width)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    fn int(&mut self, width: usize) -> Result<()> {
        let number = self.number(width)?;
        self.stack.push(Value::Int(number as i64));
        Ok(())
    }

    /// A little-endian two's complement of any length; longer ones than 8 bytes are no sizes.
    fn long(&mut self, width: usize) -> Result<()> {
        let bytes = self.sized(width)?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let value = if bytes.len() <= 8 {
            let start = if negative { u64::MAX } else { 0 };
            Value::Int(bytes.iter().rev().fold(start, |number, &byte| number << 8 | u64::from(byte)) as i64)
        } else {
            Value::Other
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<()> {
        let text = self.sized(width)?;
        if text.len() <= LONGEST_TEXT {
            self.push(Object::Text(String::from_utf8_lossy(text).into()));
        } else {
            self.stack.push(Value::Other);
        }
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn make(&mut self, by: Rc<str>, arguments: Value, entries: Vec<(Value, Value)>) {
        self.push(Object::Made(Made { by, arguments, entries, state: Value::Other }));
    }

    fn call(&mut self, class: Value, arguments: Value) -> Result<()> {
        let by = match class {
            Value::Object(place) => match self.objects.get(place) {
                Some(Object::Global(name)) => name.clone(),
                _ => "an object".into(),
            },
            _ => bail!("it calls what is not a class"),
        };
        // Python 2 hands an ordered dictionary its entries as a list of pairs.
        let elements = |value| match value {
            Value::Object(place) => match self.objects.get(place) {
                Some(Object::Tuple(elements) | Object::List(elements)) => elements.as_slice(),
                _ => &[],
            },
            _ => &[],
        };
        let mut entries = Vec::new();
        if &*by == "collections.OrderedDict" {
            let given = elements(arguments).first().map_or(&[][..], |&list| elements(list));
            let pair = |&pair| if let [key, value] = elements(pair) { Some((*key, *value)) } else { None };
            entries = given.iter().filter_map(pair).collect();
        }
        self.copied += entries.len();
        self.make(by, arguments, entries);
        Ok(())
    }

    fn top(&self) -> Result<Value> {
        self.stack.last().copied().context("its stack is empty")
    }

    fn top_object(&mut self) -> Result<Option<&mut Object>> {
        let Value::Object(place) = self.top()? else { return Ok(None) };
        Ok(self.objects.get_mut(place))
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().context("its stack is empty")
    }

    fn pop_text(&mut self) -> Result<Rc<str>> {
        match self.pop()? {
            Value::Object(place) => match self.objects.get(place) {
                Some(Object::Text(text)) => Ok(text.clone()),
                _ => bail!("a class has no name"),
            },
            _ => bail!("a class has no name"),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().context("it has no mark")?;
        ensure!(mark <= self.stack.len(), "its stack is empty");
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, elements: &[Value]) -> Result<()> {
        if let Some(Object::List(list)) = self.top_object()? {
            list.extend_from_slice(elements);
        }
        Ok(())
    }

    fn set_entries(&mut self, elements: &[Value]) -> Result<()> {
        if let Some(Object::Made(made)) = self.top_object()? {
            made.entries.extend(pairs(elements));
        }
        Ok(())
    }

    fn remember(&mut self, width: usize) -> Result<()> {
        let (place, top) = (self.number(width)? as u32, self.top()?);
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<()> {
        let place = self.number(width)? as u32;
        let value = *self.memo.get(&place).context("it recalls what it did not remember")?;
        self.stack.push(value);
        Ok(())
    }
}

fn pairs(elements: &[Value]) -> Vec<(Value, Value)> {
    elements.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)).collect()
}
