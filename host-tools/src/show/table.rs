//! Tables on a terminal.

use comfy_table::{
    CellAlignment, ColumnConstraint::LowerBoundary, ContentArrangement, Table, Width, presets::UTF8_BORDERS_ONLY,
};
use distill_device::columns;

/// A table with these titles and rows, which fits the terminal; the columns in `numbers` are aligned to the right, and
/// only broken between words.
pub fn table<const N: usize>(
    titles: [&str; N],
    numbers: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(titles);
    table.add_rows(rows);
    if let Some(columns) = columns() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(columns);
    }
    let longest: Vec<usize> = (0..N).map(|column| longest_word(&table, column)).collect();
    for column in table.column_iter_mut().filter(|column| numbers.contains(&column.index)) {
        column.set_cell_alignment(CellAlignment::Right);
        let padding = 2;
        column.set_constraint(LowerBoundary(Width::Fixed((longest[column.index] + padding) as u16)));
    }
    table
}

/// Characters of the longest word in a column, title included.
fn longest_word(table: &Table, column: usize) -> usize {
    let rows = table.header().into_iter().chain(table.row_iter());
    let cells = rows.filter_map(|row| row.cell_iter().nth(column)).map(|cell| cell.content());
    cells
        .flat_map(|text| text.split_whitespace().map(|word| word.chars().count()).collect::<Vec<_>>())
        .max()
        .unwrap_or(0)
}
