/* inputs and outputs are the channels of one group; weight [group][output][input][kernel]. */
struct convolution {
    struct window window;
    int32_t images, groups, inputs, outputs, zero_point;
    const int8_t *weight;
    const int32_t *bias;
    struct rounding rounding;
};

/* What the kernel reads of image [channel][element] for result p, as row [channel][kernel], less
   the zero point; 0 for what lies outside. */
static void gather(const struct convolution *c, const uint8_t *image, const int32_t p[3],
                   int16_t *row)
{
    const struct window *w = &c->window;
    const int32_t elements = volume(w->x_size), places = volume(w->kernel);
    const int32_t channels = c->groups * c->inputs;
    int32_t k[3], place = 0;

    for (k[0] = 0; k[0] < w->kernel[0]; k[0]++)
        for (k[1] = 0; k[1] < w->kernel[1]; k[1]++)
            for (k[2] = 0; k[2] < w->kernel[2]; k[2]++, place++) {
                const int32_t at = element(w, p, k);

                for (int32_t i = 0; i < channels; i++) {
                    const int32_t value = at < 0 ? 0 : image[i * elements + at] - c->zero_point;

                    row[i * places + place] = (int16_t)value;
                }
            }
}

static int32_t dot(const int16_t *row, const int8_t *weight, int32_t count)
{
    int32_t total = 0;

    for (int32_t i = 0; i < count; i++)
        total += row[i] * (int16_t)weight[i];
    return total;
}

/* x [image][group][input][element] to y [image][group][output][result]; row has room for what the
   kernel reads of all channels. */
static void convolution(const uint8_t *x, uint8_t *y, const struct convolution *c, int16_t *row)
{
    const int32_t elements = volume(c->window.x_size), results = volume(c->window.y_size);
    const int32_t count = c->inputs * volume(c->window.kernel);
    const int32_t channels = c->groups * c->outputs;

    for (int32_t n = 0; n < c->images; n++)
        for (int32_t r = 0; r < results; r++) {
            int32_t p[3];

            locate(&c->window, r, p);
            gather(c, x + n * c->groups * c->inputs * elements, p, row);
            for (int32_t o = 0; o < channels; o++) {
                const int16_t *const group = row + o / c->outputs * count;
                const int32_t total = c->bias[o] + dot(group, c->weight + o * count, count);

                y[(n * channels + o) * results + r] = rounded(total, o, &c->rounding);
            }
        }
}
