/* offset: for each index of each dimension, one dimension behind another; INT32_MIN for what is
   filled. */
struct move {
    int32_t elements, base, fill;
    struct dimensions dimensions;
    const int32_t *offset;
};

static void move(const uint8_t *x, uint8_t *y, const struct move *m)
{
    for (int32_t i = 0; i < m->elements; i++) {
        const int32_t *end = m->offset;
        int32_t from = m->base, rest = i, outside = 0;

        for (int32_t d = 0; d < m->dimensions.count; d++)
            end += m->dimensions.size[d];
        for (int32_t d = m->dimensions.count - 1; d >= 0; d--) {
            end -= m->dimensions.size[d];
            if (end[rest % m->dimensions.size[d]] == INT32_MIN)
                outside = 1;
            else
                from += end[rest % m->dimensions.size[d]];
            rest /= m->dimensions.size[d];
        }
        y[i] = outside ? (uint8_t)m->fill : x[from];
    }
}
