/* How many values of dimension d a kernel goes over, with those that lie outside of the image. */
static int32_t reach(const struct window *w, int32_t d)
{
    return (w->y_size[d] - 1) * w->stride[d] + (w->kernel[d] - 1) * w->dilation[d] + 1;
}

/* How many values of the last dimension are a stride apart. */
static int32_t steps(const struct window *w)
{
    return (reach(w, 2) + w->stride[2] - 1) / w->stride[2];
}

/* A line of an image of one channel as row, less the zero point, and 0 for what lies outside: the
   values that are a stride apart lie side by side. */
static void spread_line(const struct layer *l, const uint8_t *line, int32_t outside, int16_t *row)
{
    const struct window *w = &l->window;
    const int32_t stride = w->stride[2], count = steps(w);

    for (int32_t first = 0; first < stride; first++)
        for (int32_t step = 0; step < count; step++, row++) {
            const int32_t i = step * stride + first - w->pad[2];
            const int32_t misses = outside || i < 0 || i >= w->x_size[2];

            *row = (int16_t)(misses ? 0 : line[i] - l->zero_point);
        }
}

/* All lines that the kernel goes over, and zeros behind them. */
static void spread(const struct layer *l, const uint8_t *image, int16_t *row)
{
    const struct window *w = &l->window;
    const int32_t width = steps(w) * w->stride[2];

    for (int32_t i = -w->pad[0]; i < reach(w, 0) - w->pad[0]; i++)
        for (int32_t j = -w->pad[1]; j < reach(w, 1) - w->pad[1]; j++, row += width) {
            const int32_t outside = i < 0 || i >= w->x_size[0] || j < 0 || j >= w->x_size[1];
            const int32_t line = outside ? 0 : i * w->x_size[1] + j;

            spread_line(l, image + line * w->x_size[2], outside, row);
        }
    for (int32_t i = 0; i < LINE; i++)
        row[i] = 0;
}

/* Adds the products of a kernel with what it reads for a line of results from p on. */
static void add_products(const struct layer *l, const int16_t *row, const int8_t *weight,
                         const int32_t p[3], int32_t total[LINE])
{
    const struct window *w = &l->window;
    const int32_t stride = w->stride[2], count = steps(w);
    int32_t k[3];

    for (k[2] = 0; k[2] < w->kernel[2]; k[2]++)
        for (k[0] = 0; k[0] < w->kernel[0]; k[0]++)
            for (k[1] = 0; k[1] < w->kernel[1]; k[1]++, weight++) {
                const int32_t i = p[0] * w->stride[0] + k[0] * w->dilation[0];
                const int32_t j = p[1] * w->stride[1] + k[1] * w->dilation[1];
                const int32_t line = (i * reach(w, 1) + j) * stride;
                const int32_t at = k[2] * w->dilation[2];
                const int16_t *const from =
                    row + (line + at % stride) * count + at / stride + p[2];
                const int16_t by = *weight;

                for (int32_t r = 0; r < LINE; r++)
                    total[r] += from[r] * by;
            }
}

/* As convolution, where each group has one input: x [image][group][element] to y [image][group]
   [output][result]; row has room for an image with all that lies outside, and a line. */
static void plane_convolution(const uint8_t *x, uint8_t *y, const struct layer *l, int16_t *row)
{
    const struct window *w = &l->window;
    const int32_t elements = volume(w->x_size), results = volume(w->y_size);
    const int32_t channels = l->groups * l->outputs;

    for (int32_t n = 0; n < l->images * channels; n++) {
        const int32_t channel = n % channels;

        if (n % l->outputs == 0)
            spread(l, x + n / l->outputs * elements, row);
        for (int32_t r = 0; r < results;) {
            int32_t p[3], total[LINE] = {0};
            uint8_t line[LINE];

            locate(w, r, p);
            add_products(l, row, l->weight + channel * volume(w->kernel), p, total);
            rounded_line(total, l->bias[channel], channel, &l->rounding, line);
            for (int32_t i = 0; i < LINE && p[2] + i < w->y_size[2]; i++, r++)
                y[n * results + r] = line[i];
        }
    }
}
