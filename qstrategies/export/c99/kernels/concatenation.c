/* One part of a concatenation: rows of x go into rows of y, from the column first on. */
static void concatenation(const uint8_t *x, uint8_t *y, int32_t rows, int32_t x_row, int32_t y_row,
                          int32_t first)
{
    for (int32_t r = 0; r < rows; r++)
        for (int32_t i = 0; i < x_row; i++)
            y[r * y_row + first + i] = x[r * x_row + i];
}
