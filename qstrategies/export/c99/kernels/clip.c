static void clip(const uint8_t *x, uint8_t *y, int32_t elements, uint8_t low, uint8_t high)
{
    for (int32_t i = 0; i < elements; i++) {
        const uint8_t least = x[i] > low ? x[i] : low;

        y[i] = least < high ? least : high;
    }
}
