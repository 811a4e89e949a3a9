package android.os;

public final class PowerManager {
    public static final int THERMAL_STATUS_NONE = 0;
    public static final int THERMAL_STATUS_LIGHT = 1;
    public static final int THERMAL_STATUS_MODERATE = 2;
    public static final int THERMAL_STATUS_SEVERE = 3;
    public static final int THERMAL_STATUS_CRITICAL = 4;
    public static final int THERMAL_STATUS_EMERGENCY = 5;
    public static final int THERMAL_STATUS_SHUTDOWN = 6;

    /** Tests set these two. */
    public static volatile int thermalStatus = THERMAL_STATUS_NONE;
    public static volatile boolean powerSaveMode;

    public int getCurrentThermalStatus() {
        return thermalStatus;
    }

    public boolean isPowerSaveMode() {
        return powerSaveMode;
    }
}
