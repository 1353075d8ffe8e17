//! Tables on a terminal.

use comfy_table::{
    CellAlignment,
    ColumnConstraint::{Hidden, LowerBoundary},
    ContentArrangement, Table, Width,
    presets::UTF8_BORDERS_ONLY,
};
use distill_device::columns;

/// Most characters of a cell.
const LONGEST_CELL: usize = 200;
/// Characters beside the content of a column: its padding and a border.
const BESIDE: usize = 3;

/// A table with these titles and rows; the columns in `numbers` are aligned to the right.
///
/// On a narrow terminal, text breaks between words; where that is not enough, columns of text are left out: those after
/// the second, from the left.
pub fn table<const N: usize>(
    titles: [&str; N],
    numbers: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(titles);
    table.add_rows(rows.into_iter().map(|row| row.map(shortened)));
    for column in table.column_iter_mut().filter(|column| numbers.contains(&column.index)) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(columns) = columns() {
        fit(&mut table, numbers, columns);
    }
    table
}

/// A cell of bounded length: names from files may have any.
fn shortened(cell: String) -> String {
    match cell.char_indices().nth(LONGEST_CELL) {
        Some((end, _)) => format!("{}…", &cell[..end]),
        None => cell,
    }
}

fn fit(table: &mut Table, numbers: &[usize], columns: u16) {
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(columns);
    let least: Vec<usize> = (0..table.column_count()).map(|column| longest_word(table, column) + BESIDE).collect();
    let mut needed = 1 + least.iter().sum::<usize>();
    for (index, column) in table.column_iter_mut().enumerate() {
        if needed > columns.into() && index >= 2 && !numbers.contains(&index) {
            column.set_constraint(Hidden);
            needed -= least[index];
        } else {
            column.set_constraint(LowerBoundary(Width::Fixed((least[index] - 1) as u16)));
        }
    }
}

/// Characters of the longest word in a column, title included.
fn longest_word(table: &Table, column: usize) -> usize {
    let rows = table.header().into_iter().chain(table.row_iter());
    let words = rows.filter_map(|row| row.cell_iter().nth(column)).flat_map(|cell| {
        let words = cell.content().split_whitespace().map(|word| word.chars().count()).max();
        words.into_iter().collect::<Vec<_>>()
    });
    words.max().unwrap_or(0)
}
