/* What the kernel reads of image [input][element] for result p, as row [place][input], less the
   zero point; 0 for what lies outside. Columns of the kernel before `column` are there already. */
static void gather(const struct layer *l, const uint8_t *image, const int32_t p[3],
                   int32_t column, int16_t *row)
{
    const struct window *w = &l->window;
    const int32_t elements = volume(w->x_size), inputs = l->inputs;
    int32_t k[3];

    row += column * w->kernel[0] * w->kernel[1] * inputs;
    for (k[2] = column; k[2] < w->kernel[2]; k[2]++)
        for (k[0] = 0; k[0] < w->kernel[0]; k[0]++)
            for (k[1] = 0; k[1] < w->kernel[1]; k[1]++, row += inputs) {
                const int32_t at = element(w, p, k);

                for (int32_t i = 0; i < inputs; i++)
                    row[i] = (int16_t)(at < 0 ? 0 : image[i * elements + at] - l->zero_point);
            }
}

/* Moves what the kernel has read to where it stands for the next result of a line; returns how many
   columns of the kernel are in their place then. */
static int32_t slide(const struct layer *l, int16_t *row)
{
    const struct window *w = &l->window;
    const int32_t column = w->kernel[0] * w->kernel[1] * l->inputs, stride = w->stride[2];
    const int32_t kept = w->kernel[2] - stride;

    if (w->transposed || w->dilation[2] != 1 || kept <= 0)
        return 0;
    for (int32_t i = 0; i < kept * column; i++)
        row[i] = row[i + stride * column];
    return kept;
}

/* The sums of products of row with four lines of weights; with fewer, the last one again. */
static void dot(const int16_t *row, const int8_t *weight, int32_t count, int32_t lines,
                int32_t total[4])
{
    const int8_t *const b = weight + (lines > 1 ? count : 0);
    const int8_t *const c = b + (lines > 2 ? count : 0);
    const int8_t *const d = c + (lines > 3 ? count : 0);
    int32_t sum[4] = {0, 0, 0, 0};

    for (int32_t i = 0; i < count; i++) {
        sum[0] += row[i] * (int16_t)weight[i];
        sum[1] += row[i] * (int16_t)b[i];
        sum[2] += row[i] * (int16_t)c[i];
        sum[3] += row[i] * (int16_t)d[i];
    }
    for (int32_t i = 0; i < 4; i++)
        total[i] = sum[i];
}

/* x [input][element] to y [output][result] for one group, whose outputs begin with `first`. */
static void group(const uint8_t *x, uint8_t *y, const struct layer *l, int32_t first, int16_t *row)
{
    const int32_t results = volume(l->window.y_size);
    const int32_t count = l->inputs * volume(l->window.kernel);

    for (int32_t r = 0; r < results; r++) {
        int32_t p[3];

        locate(&l->window, r, p);
        gather(l, x, p, p[2] == 0 ? 0 : slide(l, row), row);
        for (int32_t o = 0; o < l->outputs; o += 4) {
            const int32_t lines = l->outputs - o < 4 ? l->outputs - o : 4;
            int32_t total[4];

            dot(row, l->weight + (first + o) * count, count, lines, total);
            for (int32_t i = 0; i < lines; i++) {
                const int32_t channel = first + o + i, whole = l->bias[channel] + total[i];

                y[(o + i) * results + r] = rounded(whole, channel, &l->rounding);
            }
        }
    }
}

/* x [image][group][input][element] to y [image][group][output][result]; row has room for what the
   kernel reads of one group. */
static void convolution(const uint8_t *x, uint8_t *y, const struct layer *l, int16_t *row)
{
    const int32_t read = l->inputs * volume(l->window.x_size);
    const int32_t written = l->outputs * volume(l->window.y_size);

    for (int32_t n = 0; n < l->images * l->groups; n++)
        group(x + n * read, y + n * written, l, n % l->groups * l->outputs, row);
}
