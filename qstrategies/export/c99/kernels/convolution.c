/* inputs and outputs are the channels of one group; weight [group][kernel][input][output]. */
struct convolution {
    struct window window;
    int32_t images, groups, inputs, outputs, zero_point;
    const int8_t *weight;
    const int32_t *bias;
    struct rounding rounding;
};

/* Add to total [output] what the kernel reads of image [input][element] for result p. */
static void add_products(const struct convolution *c, const uint8_t *image, const int32_t p[3],
                         const int8_t *weight, int32_t *total)
{
    const struct window *w = &c->window;
    const int32_t elements = volume(w->x_size);
    int32_t k[3];

    for (k[0] = 0; k[0] < w->kernel[0]; k[0]++)
        for (k[1] = 0; k[1] < w->kernel[1]; k[1]++)
            for (k[2] = 0; k[2] < w->kernel[2]; k[2]++, weight += c->inputs * c->outputs) {
                const int32_t at = element(w, p, k);

                for (int32_t i = 0; at >= 0 && i < c->inputs; i++) {
                    const int32_t value = image[i * elements + at] - c->zero_point;
                    const int8_t *const row = weight + i * c->outputs;

                    if (value == 0) /* often, behind a ReLU */
                        continue;
                    for (int32_t o = 0; o < c->outputs; o++)
                        total[o] += value * row[o];
                }
            }
}

/* x [image][group][input][element] to y [image][group][output][result]; total has room for the
   outputs of one group. */
static void convolution(const uint8_t *x, uint8_t *y, const struct convolution *c, int32_t *total)
{
    const struct window *w = &c->window;
    const int32_t elements = volume(w->x_size), results = volume(w->y_size);
    const int32_t weights = volume(w->kernel) * c->inputs * c->outputs;

    for (int32_t n = 0; n < c->images * c->groups; n++) {
        const int32_t first = n % c->groups * c->outputs;

        for (int32_t r = 0; r < results; r++) {
            int32_t p[3];

            locate(w, r, p);
            for (int32_t o = 0; o < c->outputs; o++)
                total[o] = c->bias[first + o];
            add_products(c, x + n * c->inputs * elements, p, c->weight + n % c->groups * weights,
                         total);
            for (int32_t o = 0; o < c->outputs; o++)
                total[o] = rounded(total[o], first + o, &c->rounding);
            for (int32_t o = 0; o < c->outputs; o++)
                y[(n * c->outputs + o) * results + r] = (uint8_t)total[o];
        }
    }
}
