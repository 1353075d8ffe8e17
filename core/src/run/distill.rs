//! Distils one block: fold, shrink, solve, train, measure.

use alloc::vec::Vec;

use crate::{
    block::{Block, BlockError},
    engine::{Batch, DeviceBlock, Difference, DistillError, Engine, Portions, Workspace, cpu::ProgramBytes},
    inputs::{Before, InputBytes, Inputs, MEASURED_INPUTS, NOISE_BATCH, VALIDATED_INPUTS},
    recipe::{Recipe, Training},
    solve::{ClosedFormBytes, closed_form},
    storage::ScratchError,
    stream::Purpose,
    student::{fold_batch_norms, prune},
    train::{BlockTraining, LookAhead, Ramp, TrainBytes, train},
};

/// A distilled block and its errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Distilled {
    /// The student `S_i`.
    pub block: Block,
    /// `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖` over inputs that neither solve nor training used.
    pub relative_error: f64,
    /// Mean squared error per element over the same inputs (eq. 4).
    pub loss: f64,
}

/// Relative errors below this are the rounding of single precision.
const SAME: f64 = 1e-5;

/// How a block is distilled.
#[derive(Clone, Copy, Debug)]
pub struct Distillation<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The teacher's next folded blocks, whose outputs are matched, too; not used for neighbourhoods inside a block.
    pub ahead: LookAhead<'a>,
    /// The compute engine.
    pub engine: &'a Engine,
}

/// Distils one block: as one neighbourhood, or each neighbourhood inside it in turn.
///
/// `progress` is called after every gradient step with its number (from 1) and its loss.
///
/// # Errors
/// [`DistillError`].
pub fn distill(
    teacher: Block,
    how: Distillation<'_>,
    inputs: &mut Inputs<'_>,
    mut progress: impl FnMut(usize, f32),
) -> Result<Distilled, DistillError> {
    let device = &how.engine.device;
    let folded = fold_batch_norms(&teacher)?;
    drop(teacher);
    let (target, student) = if folded.parts().is_empty() {
        neighbourhood(folded, how, inputs, &mut progress)?
    } else {
        let student = parts(&folded, how, inputs, &mut progress)?;
        let target = DeviceBlock::new(&folded, device);
        // The plan counts on its memory being free while the student is measured.
        drop(folded);
        (target, student)
    };
    measure(&target, student, inputs, how.engine)
}

/// Distils a folded neighbourhood; returns it on the device, with its student.
///
/// # Errors
/// [`DistillError::Worse`], and [`DistillError::Diverged`], if gradient steps were of no use: without them there is a student.
fn neighbourhood(
    folded: Block,
    how: Distillation<'_>,
    inputs: &mut Inputs<'_>,
    progress: impl FnMut(usize, f32),
) -> Result<(DeviceBlock, Block), DistillError> {
    let Distillation { recipe, ahead, engine } = how;
    let student = closed_form(&folded, inputs, recipe, engine)?;
    let target = DeviceBlock::new(&folded, &engine.device);
    drop(folded);
    let ramp = Ramp::new(&student, recipe);
    if recipe.training.steps == 0 {
        return Ok((target, if ramp.is_some() { prune(student, recipe)? } else { student }));
    }
    let error = |student: &Block, inputs: &mut Inputs<'_>| -> Result<f64, DistillError> {
        Ok(difference(&target, &DeviceBlock::new(student, &engine.device), inputs, engine)?.relative_error())
    };
    let before = match &ramp {
        // Steps that take weights away must be better than taking them away at once.
        Some(_) => error(&prune(student.clone(), recipe)?, inputs)?,
        None => error(&student, inputs)?,
    };
    // A student that is its teacher already, but for rounding, has nothing to learn.
    if before < SAME && ramp.is_none() && recipe.training.weight_decay == 0.0 {
        return Ok((target, student));
    }
    let training = BlockTraining { teacher: &target, ahead, training: &recipe.training, ramp: ramp.as_ref(), engine };
    let student = train(student, training, inputs, progress)?;
    let after = error(&student, inputs)?;
    match after <= before {
        true => Ok((target, student)),
        false => Err(DistillError::Worse { block: student.name().into(), before, after }),
    }
}

/// Whether gradient steps are to be left out after this error, which is then said: without them there is a student, and it is
/// made again so that no run needs memory for a copy.
pub fn undoes_steps(error: &DistillError, recipe: &Recipe) -> bool {
    let is_of_training = matches!(error, DistillError::Worse { .. } | DistillError::Diverged { .. });
    if is_of_training && recipe.training.steps > 0 {
        log::warn!("{error}: kept the student without gradient steps; a lower learning rate may help");
    }
    is_of_training && recipe.training.steps > 0
}

/// Distils the neighbourhoods inside a block.
fn parts(
    folded: &Block,
    how: Distillation<'_>,
    inputs: &mut Inputs<'_>,
    progress: &mut impl FnMut(usize, f32),
) -> Result<Block, DistillError> {
    let device = &how.engine.device;
    let mut student = folded.clone();
    for number in 0..folded.parts().len() {
        // Node numbers differ between teacher and student once a part has fewer layers.
        let (part, place) = (folded.parts()[number], student.parts()[number]);
        let alone = folded.part(part)?;
        let leads = inputs.are_cached() && part.from > 0;
        let teacher = leads.then(|| DeviceBlock::up_to(folded, part.from.into(), device));
        let own = (leads && inputs.are_paired()).then(|| DeviceBlock::up_to(&student, place.from.into(), device));
        let before = teacher.as_ref().map(|teacher| Before { student: own.as_ref().unwrap_or(teacher), teacher });
        let mut inputs = inputs.of_inner(number, alone.input(), before, how.engine);
        if changes(how.recipe, &alone)? {
            let inner = Distillation { ahead: LookAhead::NONE, ..how };
            let learned = neighbourhood(alone, inner, &mut inputs, &mut *progress);
            let (_, learned) = match learned {
                Err(error) if undoes_steps(&error, how.recipe) => {
                    let inner = Distillation { recipe: &how.recipe.without_steps(), ..inner };
                    neighbourhood(folded.part(part)?, inner, &mut inputs, |_, _| {})?
                }
                learned => learned?,
            };
            student = student.with_part(place, &learned)?;
        }
    }
    if student == *folded {
        log::warn!("{}: nothing inside its neighbourhoods can shrink; kept the teacher's block", folded.name());
    }
    Ok(student)
}

/// Measures a student's errors on held-out inputs.
pub fn measure(
    teacher: &DeviceBlock,
    student: Block,
    inputs: &mut Inputs<'_>,
    engine: &Engine,
) -> Result<Distilled, DistillError> {
    let block = DeviceBlock::new(&student, &engine.device);
    let difference = difference(teacher, &block, inputs, engine)?;
    let (relative_error, loss) = (difference.relative_error(), difference.mean_squared_error());
    let name = || student.name().into();
    match relative_error {
        useful if useful < 1.0 => Ok(Distilled { block: student, relative_error, loss }),
        error if error.is_finite() => Err(DistillError::Useless { block: name(), relative_error }),
        _ => Err(DistillError::Diverged { block: name() }),
    }
}

/// The difference between the student's and the teacher's outputs on held-out inputs.
fn difference(
    teacher: &DeviceBlock,
    student: &DeviceBlock,
    inputs: &mut Inputs<'_>,
    engine: &Engine,
) -> Result<Difference, ScratchError> {
    let mut difference = Difference::default();
    let [mut input, mut theirs, mut target, mut output] = engine.batches();
    let (mut batches, mut workspace) = (inputs.pass(Purpose::Measure, MEASURED_INPUTS), engine.workspace());
    while batches.next_into(engine.portions.solving, &mut input)? {
        teacher.forward_into(batches.teachers(&input, &mut theirs)?, &mut target, &mut workspace);
        student.forward_into(&input, &mut output, &mut workspace);
        output.add_difference(&target, &mut difference);
    }
    Ok(difference)
}

/// Heap bytes of [`distill`], or of [`measure`] for a finished block, for each of these portions, without the cache.
///
/// # Errors
/// As the transformations of a block.
pub fn distill_bytes(
    block: Block,
    how: Distillation<'_>,
    inputs: InputBytes,
    ways: &[Portions],
) -> Result<Vec<u64>, BlockError> {
    let loaded = block.heap_bytes() as u64;
    let folded = fold_batch_norms(&block)?;
    drop(block);
    let held = folded.heap_bytes() as u64;
    let ahead: u64 = how.ahead.blocks.iter().map(|block| block.heap_bytes() as u64).sum();
    let mut bytes = if folded.parts().is_empty() {
        neighbourhood_bytes(folded, how, inputs, ways)?
    } else {
        parts_bytes(folded, how, inputs, ways)?
    };
    bytes.iter_mut().for_each(|bytes| *bytes = ahead + (*bytes).max(loaded + held));
    Ok(bytes)
}

/// Whether a recipe's student of a neighbourhood differs from it.
fn changes(recipe: &Recipe, alone: &Block) -> Result<bool, BlockError> {
    Ok(recipe.unchanged(alone)?.is_none())
}

/// Heap bytes of [`parts`] and of measuring the block.
fn parts_bytes(
    folded: Block,
    how: Distillation<'_>,
    inputs: InputBytes,
    ways: &[Portions],
) -> Result<Vec<u64>, BlockError> {
    let Training { batch, stop, .. } = how.recipe.training;
    // Block and student are held while its parts are distilled, plus a copy while a part is inserted.
    let held = folded.heap_bytes() as u64;
    let untouched =
        Recipe { solve: false, training: Training { steps: 0, ..how.recipe.training }, ..how.recipe.clone() };
    let whole = Distillation { recipe: &untouched, ..how };
    let mut bytes = neighbourhood_bytes(folded.clone(), whole, inputs, ways)?;
    for &part in folded.parts() {
        // Cached inputs are propagated from the block's input to the part.
        let leads = inputs.cached && part.from > 0;
        let before = if leads { ProgramBytes::of(&folded, part.from.into()) } else { ProgramBytes::default() };
        // The student's nodes before the part are no larger than the teacher's.
        let before = if inputs.paired { before.and(before) } else { before };
        let alone = folded.part(part)?;
        // A part that would not change is not distilled.
        if !changes(how.recipe, &alone)? {
            continue;
        }
        let (part, elements) = (alone.heap_bytes() as u64, alone.input().elements());
        let how = Distillation { ahead: LookAhead::NONE, ..how };
        let inner = neighbourhood_bytes(alone, how, InputBytes { elements, ..inputs }, ways)?;
        for ((bytes, inner), portions) in bytes.iter_mut().zip(inner).zip(ways) {
            let judged = if stop { VALIDATED_INPUTS } else { 0 };
            let images = if leads { portions.training.min(batch).max(portions.solving).max(judged) } else { 0 };
            let passing = before.held
                + Batch::bytes(inputs.elements, images)
                + Workspace::bytes(portions.workers, usize::MAX, before.arena);
            *bytes = (*bytes).max((inner + passing).max(held + part) + 2 * held);
        }
    }
    Ok(bytes)
}

/// Heap bytes of [`neighbourhood`] and of measuring it.
fn neighbourhood_bytes(
    folded: Block,
    how: Distillation<'_>,
    inputs: InputBytes,
    ways: &[Portions],
) -> Result<Vec<u64>, BlockError> {
    let Distillation { recipe, ahead, .. } = how;
    let student = recipe.student(&folded)?;
    let output = folded.output().elements();
    let [folded_bytes, student_bytes] = [&folded, &student].map(|block| block.heap_bytes() as u64);
    // Intermediate copies of a student that differs in more than its width.
    let transforming = folded_bytes * (u64::from(recipe.fewer_layers > 0) + u64::from(recipe.activation.is_some()));
    let closed_form = ClosedFormBytes::new(&student, &folded, recipe, inputs);
    let target = ProgramBytes::of(&folded, folded.nodes().len());
    drop(folded);
    let own = ProgramBytes::of(&student, student.nodes().len());
    // A copy of the student without its smallest weights.
    let pruning = Ramp::new(&student, recipe).map_or(0, |ramp| student_bytes + ramp.bytes());
    let mut blocks = Vec::with_capacity(1 + ahead.blocks.len());
    blocks.push(student);
    blocks.extend_from_slice(ahead.blocks);
    let training = TrainBytes::new(target, &blocks, inputs, recipe, recipe.images.next_multiple_of(NOISE_BATCH));
    drop(blocks);
    let bytes = |portions: &Portions| {
        let solve = closed_form.as_ref().map_or(0, |closed_form| folded_bytes + closed_form.bytes(*portions));
        let train = training.as_ref().map_or(0, |training| training.bytes(*portions));
        let images = portions.solving.min(MEASURED_INPUTS);
        let measure = target.held
            + student_bytes
            + pruning
            + own.held
            + Batch::bytes(inputs.elements + inputs.beside() + 2 * output, images)
            + Workspace::bytes(portions.workers, portions.solving, target.arena.max(own.arena))
            + inputs.bytes(portions.solving, 0);
        let first = folded_bytes + student_bytes + transforming;
        first.max(solve).max(folded_bytes + target.held + student_bytes).max(train).max(measure)
    };
    Ok(ways.iter().map(bytes).collect())
}
